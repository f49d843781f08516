"""The checks: each a function from what was seen to one finding, None where it does not apply here. Pure.

A check stands with its name in `CHECKS` of its module; a module is a section of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from overlayd.doctor.checks import docker, etcd, firewall, host, reach, underlay
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, Sections, problems
from overlayd.lib.marks import of
from overlayd.lib.quick_dataclass import dataclass

Check = Callable[[Facts], Finding | None]


@dataclass(frozen=True, kw_only=True)
class Section:
    """Checks by name, in the order in which a reader should mend things.

    `first_network_only`: the checks are about what only network 0 of a host has.
    """

    title: str
    checks: Mapping[str, Check]
    first_network_only: bool = False


SECTIONS = (
    Section(title="this host", checks=host.CHECKS),
    Section(title="underlay", checks=underlay.CHECKS),
    Section(title="etcd", checks=etcd.CHECKS),
    Section(title="firewall", checks=firewall.CHECKS),
    # docker's default bridge, and so what docker is told, belongs to network 0.
    Section(title="docker", checks=docker.CHECKS, first_network_only=True),
)

# Last: packets say whether all of the above is true, and findings above may say why they do not come through.
MEASURED = "measured"


def examine(facts: Facts) -> Sections:
    """What every check says, by section."""
    marks = of(facts.number)

    def named(name: str, finding: Finding) -> Finding:
        remedy = None if finding.remedy is None else marks.adapt_commands(finding.remedy)
        advice = None if finding.advice is None else marks.adapt_commands(finding.advice)
        return replace(finding, name=name, remedy=remedy, advice=advice)

    found = [
        (
            section.title,
            [named(name, finding) for name, check in section.checks.items() if (finding := check(facts)) is not None],
        )
        for section in SECTIONS
        if not (facts.number and section.first_network_only)
    ]
    causes = [finding.name for _title, findings in found for finding in problems(findings)]
    measured = reach.reachability(facts, causes)
    return [*found, (MEASURED, [replace(measured, name=reach.NAME)])]

"""The checks: each a function from what was seen to one finding, None where it does not apply here. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from overlayd.doctor.checks import docker, etcd, firewall, host, underlay
from overlayd.doctor.checks.reach import reachability
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, Sections, problems
from overlayd.lib.marks import of

Check = Callable[[Facts], Finding | None]

SECTIONS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    ("this host", host.CHECKS),
    ("underlay", underlay.CHECKS),
    ("etcd", etcd.CHECKS),
    ("firewall", firewall.CHECKS),
    ("docker", docker.CHECKS),
)

# Last: packets say whether all of the above is true, and findings above may say why they do not come through.
MEASURED = "measured"


def examine(facts: Facts) -> Sections:
    """What every check says, by section, in the order in which a reader should mend things."""
    marks = of(facts.number)

    def said(text: str | None) -> str | None:
        return None if text is None else marks.said_of(text)

    found = [
        (
            title,
            [
                replace(finding, remedy=said(finding.remedy), advice=said(finding.advice))
                for check in checks
                if (finding := check(facts)) is not None
            ],
        )
        for title, checks in SECTIONS
        # Its default bridge, and so what it is told, is network 0's.
        if not (facts.number and checks is docker.CHECKS)
    ]
    causes = [finding.name for _title, findings in found for finding in problems(findings)]
    return [*found, (MEASURED, [reachability(facts, causes)])]

"""The finding of a check, and the report of all findings as text and JSON. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from overlayd.lib.quick_dataclass import dataclass


class State(StrEnum):
    """A PROBLEM stops packets now; a WARNING may do so, or has done no harm yet; UNKNOWN could not be read."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found. `remedy` is a command to paste, `advice` what a person has to do that no command can.

    `name` is that of the check, which `examine` fills in.
    """

    name: str = ""
    state: State
    found: str
    remedy: str | None = None
    advice: str | None = None


def ok(found: str) -> Finding:
    """Nothing is wrong; `found` is what was seen."""
    return Finding(state=State.OK, found=found)


def unknown(found: str, *, advice: str | None = None) -> Finding:
    """It could not be read; `found` says why."""
    return Finding(state=State.UNKNOWN, found=found, advice=advice)


def warning(found: str, *, remedy: str | None = None, advice: str | None = None) -> Finding:
    """It may stop packets later, or stops some of them."""
    return Finding(state=State.WARNING, found=found, remedy=remedy, advice=advice)


def problem(found: str, *, remedy: str | None = None, advice: str | None = None) -> Finding:
    """It stops packets."""
    return Finding(state=State.PROBLEM, found=found, remedy=remedy, advice=advice)


Sections = Sequence[tuple[str, Sequence[Finding]]]


def lines(sections: Sections) -> list[str]:
    """The report for people: a line for each finding, by section, with the remedy and the advice below."""
    width = max((len(finding.name) for _title, findings in sections for finding in findings), default=0)
    report: list[str] = []
    for title, findings in sections:
        report.append(title)
        for finding in findings:
            report.append(f"  {finding.state:8} {finding.name.ljust(width)}  {finding.found}")
            below = " " * (13 + width)
            report += [f"{below}run: {finding.remedy}"] if finding.remedy else []
            report += [f"{below}{finding.advice}"] if finding.advice else []
    return [*report, _summary([finding for _title, findings in sections for finding in findings])]


def document(sections: Sections) -> dict[str, Any]:
    """The report for programs (`--json`)."""
    return {
        "well": not any(problems(findings) for _title, findings in sections),
        "findings": [
            {"section": title, **dataclasses.asdict(finding)} for title, findings in sections for finding in findings
        ],
    }


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those that stop packets."""
    return [finding for finding in findings if finding.state is State.PROBLEM]


def _summary(findings: Sequence[Finding]) -> str:
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    return (
        f"problems: {counts[State.PROBLEM]}, warnings: {counts[State.WARNING]}, unknown: {counts[State.UNKNOWN]}, "
        f"ok: {counts[State.OK]}"
    )

"""What one check found, and how all of them are shown. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How it is. A PROBLEM stops packets now; a WARNING may, or did no harm yet; UNKNOWN could not be looked at."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer of one check. `remedy` is a command to paste, `advice` what no command can do.

    `name` is that of the check, which `examine` fills in.
    """

    name: str = ""
    state: State
    found: str
    remedy: str | None = None
    advice: str | None = None


def ok(found: str) -> Finding:
    """All is well, and this is what was seen."""
    return Finding(state=State.OK, found=found)


def unknown(found: str, *, advice: str | None = None) -> Finding:
    """It could not be looked at, and this is why."""
    return Finding(state=State.UNKNOWN, found=found, advice=advice)


def warning(found: str, *, remedy: str | None = None, advice: str | None = None) -> Finding:
    """It may stop packets one day, or some of them."""
    return Finding(state=State.WARNING, found=found, remedy=remedy, advice=advice)


def problem(found: str, *, remedy: str | None = None, advice: str | None = None) -> Finding:
    """It stops packets."""
    return Finding(state=State.PROBLEM, found=found, remedy=remedy, advice=advice)


Sections = Sequence[tuple[str, Sequence[Finding]]]


def lines(sections: Sections) -> list[str]:
    """A table by section: what is well in one line each, what is not with its remedy below."""
    width = max((len(finding.name) for _title, findings in sections for finding in findings), default=0)
    said: list[str] = []
    for title, findings in sections:
        said.append(title)
        for finding in findings:
            said.append(f"  {finding.state:8} {finding.name.ljust(width)}  {finding.found}")
            below = " " * (13 + width)
            said += [f"{below}run: {finding.remedy}"] if finding.remedy else []
            said += [f"{below}{finding.advice}"] if finding.advice else []
    return [*said, _summary([finding for _title, findings in sections for finding in findings])]


def document(sections: Sections) -> dict[str, Any]:
    """All of it for `--json`."""
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

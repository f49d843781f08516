"""A night compared with those before it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tests.nightly.ratios import less_is_better
from tests.nightly.runs import Run

# Medians are those of so many nights.
COMPARED = 10
# More than 20 % worse is marked.
FALL = 0.8
# What differs by less is noise of a shared machine.
SLOWER, SLOWER_S = 1.5, 5.0


@dataclass(frozen=True, kw_only=True)
class Failing:
    """How long a test has not passed: since which night, in how many of the `seen` nights before, and how often."""

    since: datetime | None
    nights: int
    failed: int
    seen: int


def failing(test: str, older: Sequence[Run]) -> Failing:
    """What older nights, oldest first, say of a test that failed tonight. `since` is None where tonight is the first.

    A night that did not run all tests tells of the tests that failed in it, and nothing of the others.
    """
    since, nights = None, 1
    for run in reversed(older):
        if test in run.not_passed:
            since, nights = run.when, nights + 1
        elif run.complete:
            break
    telling = [run for run in older if run.complete or test in run.not_passed]
    return Failing(since=since, nights=nights, failed=sum(test in run.not_passed for run in telling), seen=len(telling))


def mended(tonight: Run, older: Sequence[Run]) -> list[str]:
    """The tests that failed in the last complete night and do not now. None where tonight is not complete."""
    last = next((run for run in reversed(older) if run.complete), None)
    if last is None or not tonight.complete:
        return []
    return sorted(test for test in last.not_passed if test not in tonight.not_passed)


def usual(values: Iterable[float | None]) -> float | None:
    """The median over the last nights that have a value, of all nights', oldest first; None where none has."""
    found = [one for one in values if one is not None][-COMPARED:]
    return statistics.median(found) if found else None


def slower(seconds: float, before: float | None) -> bool:
    """Whether a time is longer than usual by more than noise."""
    return before is not None and seconds > before * SLOWER and seconds - before > SLOWER_S


def worse(name: str, value: float, before: float | None) -> bool:
    """Whether a ratio is more than a fifth worse than usual: below it, or above where less is better."""
    if before is None or before <= 0:
        return False
    return value > before / FALL if less_is_better(name) else value < before * FALL

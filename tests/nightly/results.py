"""What a night left in its folder, read back as values; whatever is missing or damaged is said, and nothing raises.

`night.json` tells of the parts, `junit.xml` of the tests, `bench.json` of the bench, `PART.log` what a part printed.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from images.engine.files import write
from tests.nightly import parts
from tests.nightly.junit import Case, Summary, end, plain, summarize
from tests.nightly.parts import Outcome
from tests.nightly.ratios import ratios
from tests.nightly.runs import FaultCost, Run, slowest

NIGHT, JUNIT, BENCH = "night.json", "junit.xml", "bench.json"
# The names of the parts that have results beside their log.
TESTS, BENCHMARK = "tests", "bench"
_PART = re.compile(r"[a-z]+")
_LOG_END_BYTES = 12_000


@dataclass(frozen=True, kw_only=True)
class Night:
    """A night as its commands ended. `selection`: what was run of the tests, where that was not all.

    `problems` are those of the night itself, not of a part. `told`: there was a `night.json` to read this from.
    """

    when: datetime
    commit: str
    machine: tuple[str, ...] = ()
    selection: str = ""
    outcomes: tuple[Outcome, ...] = ()
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    told: bool = True


@dataclass(frozen=True, kw_only=True)
class Results:
    """All of a night. `ends` has the end of what each part printed, `notes` what could not be read."""

    night: Night
    tests: Summary | None = None
    bench: dict[str, Any] | None = None
    ends: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Case, ...]:
        """All that is not well, what failed first before what followed from it."""
        found = [_error("the night", one) for one in self.night.problems]
        for outcome in self.night.outcomes:
            if outcome.name == TESTS and self.tests is not None:
                found += self.tests.not_passed
            if problem := self._problem(outcome):
                found.append(_error(outcome.name, problem, self.ends.get(outcome.name, "")))
        if not any(outcome.name == TESTS for outcome in self.night.outcomes):
            found += self.tests.not_passed if self.tests else [_error(TESTS, "there are no results of tests")]
        return tuple(found)

    def _problem(self, outcome: Outcome) -> str:
        """What is wrong with a part, beside the tests that failed in it."""
        if outcome.name == TESTS and outcome.ended == parts.FAILED and self.tests and self.tests.not_passed:
            return ""
        if outcome.ended != parts.WELL:
            return f"{outcome.ended}: {outcome.problem}" if outcome.ended == parts.NOT_RUN else outcome.problem
        if outcome.name == TESTS and (self.tests is None or not self.tests.total):
            return "it left no results"
        return "it left no figures" if outcome.name == BENCHMARK and self.bench is None else ""

    @property
    def broken_off(self) -> bool:
        """Whether somebody ended the night."""
        ended = [outcome.ended for outcome in self.night.outcomes]
        return parts.BROKEN_OFF in ended or any(one.startswith(parts.BROKEN_OFF) for one in self.night.problems)

    @property
    def counts(self) -> Counter[str]:
        """How many tests have each outcome, as pytest counts; what else is not well is an `error`."""
        found = Counter({word: self.tests.count(word) for word in ("passed", "skipped")} if self.tests else {})
        found.update(case.outcome for case in self.failures)
        return +found

    def run(self) -> Run:
        """What later nights will compare with."""
        tests, bench = self.tests, self.bench
        ended = {outcome.name: outcome.ended for outcome in self.night.outcomes}
        faults = {
            f"{test}: {one.fault}, {one.backend}": FaultCost(sent=one.sent, lost=one.lost, recovered_s=one.recovered_s)
            for test, one in (tests.faults if tests else ())
        }
        return Run(
            when=self.night.when,
            commit=self.night.commit,
            well=not self.failures,
            complete=(
                bool(tests and tests.total)
                and not self.night.selection
                and ended.get(TESTS) in (parts.WELL, parts.FAILED)
            ),
            counts=dict(self.counts),
            not_passed={case.name: case.outcome for case in self.failures},
            times_s=slowest(tests.seconds) if tests else {},
            # A part of some tests is no measure for one of all.
            parts_s={
                one.name: round(one.seconds, 1)
                for one in self.night.outcomes
                if one.ended in (parts.WELL, parts.FAILED) and not self.night.selection
            },
            ratios=ratios(bench),
            faults=faults,
        )


def _error(name: str, problem: str, output: str = "") -> Case:
    return Case(name=name, outcome="error", message=problem, output=output)


def write_night(folder: Path, night: Night) -> None:
    """Write `night.json`. Raises OSError."""
    document = {
        "when": night.when.astimezone(UTC).isoformat(timespec="seconds"),
        "commit": night.commit,
        "machine": list(night.machine),
        "selection": night.selection,
        "outcomes": [one.as_json() for one in night.outcomes],
        "problems": list(night.problems),
        "seconds": round(night.seconds, 1),
    }
    write(folder / NIGHT, json.dumps(document, indent=1) + "\n")


def read(folder: Path) -> Results:
    """The results in a folder. Never raises: what cannot be read is in `notes`."""
    notes: list[str] = []
    night = _night(folder / NIGHT, notes)
    junit = _bytes(folder / JUNIT, notes)
    tests = summarize(junit) if junit is not None else None
    bench = _document(folder / BENCH, notes)
    ends = {
        one.name: end(plain(text[-_LOG_END_BYTES:].decode(errors="replace")))
        for one in night.outcomes
        if _PART.fullmatch(one.name) and (text := _bytes(folder / f"{one.name}.log", notes)) is not None
    }
    notes += tests.problems if tests else ()
    return Results(night=night, tests=tests, bench=bench, ends=ends, notes=tuple(map(plain, notes)))


def _night(path: Path, notes: list[str]) -> Night:
    document = _document(path, notes)
    try:
        if document is None:
            raise ValueError("it is not there, or not readable")
        when = datetime.fromisoformat(document["when"])
        return Night(
            when=when if when.tzinfo else when.replace(tzinfo=UTC),
            commit=plain(str(document["commit"])),
            machine=tuple(map(str, document["machine"])),
            selection=str(document["selection"]),
            outcomes=tuple(map(Outcome.parse, document["outcomes"])),
            problems=tuple(map(str, document["problems"])),
            seconds=float(document["seconds"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        notes.append(f"{path.name} does not tell how the parts of the night ended: {type(error).__name__}: {error}")
        return Night(when=datetime.now(UTC), commit="unknown", told=False)


def _document(path: Path, notes: list[str]) -> dict[str, Any] | None:
    text = _bytes(path, notes)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        notes.append(f"{path.name} is damaged: {error}")
        return None
    if not isinstance(found, dict):
        notes.append(f"{path.name} is damaged: it holds no object")
        return None
    return found


def _bytes(path: Path, notes: list[str]) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return None


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """All values of a JSON document with the keys that lead to them, for people."""
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, str(key)))]
    if isinstance(value, list):
        return [leaf for number, inner in enumerate(value, 1) for leaf in leaves(inner, (*path, str(number)))]
    shown = f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
    return [(" · ".join(path), shown)]

"""A night's results beside those of older nights, in the order and the words of the page. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.nightly import history, matrix, parts
from tests.nightly.junit import Case, Figure, in_words
from tests.nightly.parts import duration
from tests.nightly.plot import over_nights
from tests.nightly.ratios import SEPARATOR, Ratio
from tests.nightly.results import Results, leaves
from tests.nightly.runs import Run

_SLOWEST = 15
# A plot and the strip of nights have room for so many.
_NIGHTS = 60


_PLAIN = re.compile(r"[\w/.:-]+")
_BREAKS = re.compile(r"""['"$\\`#\s](?<! )""")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A test or part that is not well, for how long it has not been, and how to run it again."""

    case: Case
    since: str
    often: str
    again: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One ratio over the nights: tonight's value in words, and the picture."""

    name: str
    tonight: Ratio | None
    usual: float | None
    worse: bool
    svg: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds of something, those that are usual, and those that it may take at most."""

    name: str
    seconds: float
    usual: float | None = None
    limit_s: float | None = None
    ended: str = ""

    @property
    def late(self) -> bool:
        """Whether it took longer than usual, or than it may."""
        return history.slower(self.seconds, self.usual) or (self.limit_s is not None and self.seconds > self.limit_s)


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """A fault, what it cost tonight, and what is usual."""

    fault: str
    backend: str
    test: str
    sent: int
    lost: int
    recovered_s: float
    usual_lost: float | None
    usual_s: float | None

    @property
    def worse(self) -> bool:
        """Whether more was lost than usual by more than noise, or it took longer."""
        more = self.usual_lost is not None and self.lost > max(1.5 * self.usual_lost, self.usual_lost + 5)
        return more or (self.usual_s is not None and self.recovered_s > max(1.5 * self.usual_s, self.usual_s + 1))


@dataclass(frozen=True, kw_only=True)
class View:
    """All that the page shows."""

    status: str
    well: bool
    counts: str
    took: str
    when: datetime
    commit: str
    selection: str
    machine: str
    strip: tuple[tuple[str, str, str], ...]
    failures: tuple[Failure, ...]
    mended: tuple[str, ...]
    matrix: matrix.Matrix
    plots: Mapping[str, Sequence[Plot]]
    nights: int
    faults: tuple[FaultRow, ...]
    parts: tuple[Timed, ...]
    builds: tuple[Timed, ...]
    slowest: tuple[Timed, ...]
    groups: tuple[tuple[str, int, int, float], ...]
    skipped: Mapping[str, Sequence[str]]
    figures: tuple[Figure, ...]
    bench: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def view(results: Results, older: Sequence[Run], notes: Sequence[str] = ()) -> View:
    """The page's content. `older`: runs before this one, oldest first; `notes`: what was left out of them."""
    run, tests = results.run(), results.tests
    nights = [*older, run][-_NIGHTS:]
    skipped: dict[str, list[str]] = defaultdict(list)
    for case in tests.cases if tests else ():
        if case.outcome == "skipped":
            skipped[case.message or "no reason given"].append(case.name)
    return View(
        status=status(results),
        well=not results.failures,
        counts=in_words(run.counts),
        took=duration(results.night.seconds),
        when=run.when,
        commit=run.commit,
        selection=results.night.selection,
        machine=", ".join(results.night.machine),
        strip=tuple(map(_square, nights)),
        failures=tuple(_failure(case, older) for case in results.failures),
        mended=tuple(history.mended(run, older)),
        matrix=matrix.matrix(connection for _, connection in (tests.connections if tests else ())),
        plots=_plots(run, nights),
        nights=len(nights),
        faults=tuple(_faults(results, older)),
        parts=tuple(_parts(results, older)),
        builds=tuple(_limited(results.bench, ())),
        slowest=tuple(_slowest(results, older)),
        groups=tuple((name, *values) for name, values in sorted(tests.groups.items())) if tests else (),
        skipped=dict(sorted(skipped.items(), key=lambda item: -len(item[1]))),
        figures=tests.figures if tests else (),
        bench=tuple(leaves(results.bench)) if results.bench else (),
        notes=(*results.notes, *notes),
    )


def status(results: Results) -> str:
    """The night in a few words, for the title: how many failed, or that nothing did."""
    failed = {word: count for word, count in results.counts.items() if word in ("failed", "error")}
    if not failed:
        return f"All passed of {results.night.selection}" if results.night.selection else "All passed"
    return f"Broken off, {in_words(failed)}" if results.broken_off else in_words(failed)


def significant(value: float) -> str:
    """A number with three digits that say something."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _square(run: Run) -> tuple[str, str, str]:
    kind = "well" if run.well else "bad"
    return kind, f"{run.when:%Y-%m-%d %H:%M}", f"{in_words(run.counts)}{'' if run.complete else '; not all tests ran'}"


def _failure(case: Case, older: Sequence[Run]) -> Failure:
    found = history.failing(case.name, older)
    complete = any(run.complete for run in older)
    since = f"since {found.since:%Y-%m-%d %H:%M}, {found.nights} nights" if found.since else "new" if complete else ""
    often = f"failed in {found.failed} of the {found.seen} nights before" if found.failed else ""
    return Failure(case=case, since=since, often=often, again=_again(case.name))


def _again(name: str) -> str:
    """The command that runs a test again, through make and its shell; none for what is no test, or can break these."""
    if not name.startswith("tests/") or _BREAKS.search(name):
        return ""
    # `make one` splits T into words as a shell does.
    return f"make one T={name}" if _PLAIN.fullmatch(name) else f"make one T='\"{name}\"'"


def _plots(run: Run, nights: Sequence[Run]) -> dict[str, list[Plot]]:
    """Plots of all ratios that tonight or an older night has, by all but the last word of their names."""
    names = dict.fromkeys(name for one in (run, *nights) for name in one.ratios)
    found: dict[str, list[Plot]] = defaultdict(list)
    dates = [f"{one.when:%m-%d}" for one in nights]
    for name in names:
        values = [one.ratios.get(name) for one in nights]
        tonight = run.ratios.get(name)
        usual = history.usual(one.median if one else None for one in values[:-1])
        group, _, last = name.rpartition(SEPARATOR)
        found[group or last].append(
            Plot(
                name=last,
                tonight=tonight,
                usual=usual,
                worse=tonight is not None and history.worse(name, tonight.median, usual),
                svg=over_nights(values, dates),
                description=_described(name, tonight, usual, [one for one in values if one]),
            )
        )
    return found


def _described(name: str, tonight: Ratio | None, usual: float | None, all_of_it: Sequence[Ratio]) -> str:
    now = f"{significant(tonight.median)} tonight" if tonight else "not measured tonight"
    before = f", {significant(usual)} usually" if usual is not None else ""
    low, high = min(one.median for one in all_of_it), max(one.median for one in all_of_it)
    return f"{name}: {now}{before}; between {significant(low)} and {significant(high)} in {len(all_of_it)} nights"


def _faults(results: Results, older: Sequence[Run]) -> list[FaultRow]:
    """All faults, those that cost more than usual first, then those that cost most."""
    return sorted(_fault_rows(results, older), key=lambda row: (not row.worse, -row.recovered_s, -row.lost))


def _fault_rows(results: Results, older: Sequence[Run]) -> Iterator[FaultRow]:
    for test, one in results.tests.faults if results.tests else ():
        key = f"{test}: {one.fault}, {one.backend}"
        known = [run.faults[key] for run in older if key in run.faults]
        yield FaultRow(
            fault=one.fault,
            backend=one.backend,
            test=test,
            sent=one.sent,
            lost=one.lost,
            recovered_s=one.recovered_s,
            usual_lost=history.usual(fault.lost for fault in known),
            usual_s=history.usual(fault.recovered_s for fault in known),
        )


def _parts(results: Results, older: Sequence[Run]) -> Iterator[Timed]:
    for one in results.night.outcomes:
        usual = history.usual(run.parts_s.get(one.name) for run in older)
        limit_s = one.limit_s if one.ended != parts.NOT_RUN else None
        yield Timed(name=one.name, seconds=one.seconds, usual=usual, limit_s=limit_s, ended=one.ended)


def _slowest(results: Results, older: Sequence[Run]) -> Iterator[Timed]:
    seconds = results.tests.seconds if results.tests else {}
    for name in sorted(seconds, key=lambda test: -seconds[test])[:_SLOWEST]:
        usual = history.usual(run.times_s.get(name) for run in older)
        yield Timed(name=name, seconds=seconds[name], usual=usual)


def _limited(value: Any, path: tuple[str, ...]) -> Iterator[Timed]:
    """What of the bench has seconds and a limit for them: `s` and `limit_s` in one object."""
    if not isinstance(value, Mapping):
        return
    took, limit = value.get("s"), value.get("limit_s")
    if isinstance(took, int | float) and isinstance(limit, int | float):
        yield Timed(name=" · ".join(path[-1:]), seconds=took, limit_s=limit)
    for key, inner in value.items():
        yield from _limited(inner, (*path, str(key)))

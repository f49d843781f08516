"""What is kept of a night for the pages of later nights: one small JSON file each, the newest 60 of them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from images.engine.files import write
from tests.nightly.ratios import Ratio

VERSION = 1
KEPT = 60
# The slowest tests of each night are enough to compare with.
TIMES_KEPT = 100
NOTABLE_S = 1.0
_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z\.json")
_BYTES_AT_MOST = 4_000_000


class Damaged(ValueError):
    """A file is no kept run. The text says why."""


@dataclass(frozen=True, kw_only=True)
class FaultCost:
    """What a fault cost in one night: packets, and seconds until they went again."""

    sent: int
    lost: int
    recovered_s: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """A night. `complete`: all tests were run to their end, so that what is not in `not_passed` did not fail.

    `not_passed` has each such test's outcome, `times_s` the slowest tests, `parts_s` the parts of the night.
    """

    when: datetime
    commit: str
    well: bool
    complete: bool
    counts: dict[str, int]
    not_passed: dict[str, str] = field(default_factory=dict)
    times_s: dict[str, float] = field(default_factory=dict)
    parts_s: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    faults: dict[str, FaultCost] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """The name of its file, which sorts by time."""
        return f"{self.when.astimezone(UTC):%Y-%m-%dT%H%M%SZ}.json"


def as_json(run: Run) -> str:
    """The run as the text that `parse` reads."""
    document = {"version": VERSION, **dataclasses.asdict(run), "when": run.when.astimezone(UTC).isoformat()}
    return json.dumps(document, indent=0, sort_keys=True) + "\n"


def parse(text: str) -> Run:
    """The run of a text. Raises Damaged."""
    try:
        document: Any = json.loads(text)
        if not isinstance(document, dict) or "version" not in document:
            raise Damaged("it is no run of a night")
        if document.pop("version") != VERSION:
            raise Damaged(f"its version is not {VERSION}")
        document["when"] = datetime.fromisoformat(document["when"])
        if document["when"].tzinfo is None:
            raise Damaged("its time has no time zone")
        document["ratios"] = {name: Ratio(**one) for name, one in document["ratios"].items()}
        document["faults"] = {name: FaultCost(**one) for name, one in document["faults"].items()}
        run = Run(**document)
        _check(run)
    except Damaged:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error
    return run


def _check(run: Run) -> None:
    """Raise Damaged where a value is not of its type: the page compares and formats them."""
    numbers = [*run.times_s.values(), *run.parts_s.values(), *run.counts.values()]
    numbers += [value for one in (*run.ratios.values(), *run.faults.values()) for value in vars(one).values()]
    if not all(isinstance(one, int | float) and abs(one) < 1e12 for one in numbers):
        raise Damaged("a value that should be a number is none")
    texts = [run.commit, *run.not_passed.values()]
    flags = [run.well, run.complete]
    if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, bool) for one in flags):
        raise Damaged("a value is of another type than it should be")


def read(folder: Path, *, before: datetime | None = None) -> tuple[list[Run], list[str]]:
    """The kept runs of a folder, oldest first, and a line for each file that is none.

    Only those `before` a time, if one is given. A folder that is not there has none.
    """
    runs, problems = [], []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            if path.stat().st_size > _BYTES_AT_MOST:
                raise Damaged(f"it is larger than {_BYTES_AT_MOST // 1_000_000} MB")
            runs.append(parse(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            problems.append(f"{path.name} was left out: {error}")
    kept = {run.when: run for run in runs if before is None or run.when < before}
    return [kept[when] for when in sorted(kept)][-KEPT:], problems


def keep(folder: Path, run: Run) -> Path:
    """Write a run, and remove what is older than the newest KEPT; files that are not ours stay. Raises OSError."""
    path = folder / run.file_name
    write(path, as_json(run))
    ours = sorted(one for one in folder.iterdir() if _NAME.fullmatch(one.name))
    for old in ours[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def slowest(seconds: Mapping[str, float]) -> dict[str, float]:
    """The slowest tests, slowest first, but none below a second."""
    ordered = sorted(seconds.items(), key=lambda item: -item[1])[:TIMES_KEPT]
    return {name: round(value, 2) for name, value in ordered if value >= NOTABLE_S}

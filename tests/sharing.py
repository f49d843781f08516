"""A plugin for pytest: several runs share the tests. Each takes the tests of one set-up at a time, until none is left.

tests/side_by_side.py starts the runs, all with the same `--share FOLDER`. Each collects all tests and puts them into
groups: by the marker `setup(name)` where a conftest gave one, else by their file. A group is taken by whoever makes
its file in the folder. Of groups with the same marker `lane(name)`, one runs at a time; one with a test that is marked
`alone` runs when all others have ended, and nothing beside it. Nothing here depends on how many runs there are, nor on
which of them ends first; a run that is killed leaves its group's other tests unrun, and side_by_side counts it as an
error.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

# Groups that take minutes begin first, so that none is the last to end.
LONG = ("cluster",)
_RETRY_S = 0.5


@dataclass
class Group:
    """Tests that one run of pytest does, one after the other."""

    name: str
    lane: str | None = None
    alone: bool = False
    items: list[pytest.Item] = field(default_factory=list)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --share: the folder in which each run marks the groups that it has taken."""
    parser.addoption("--share", metavar="FOLDER", type=Path, help="share the tests with runs that have the same folder")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> object:
    """In place of pytest's own loop, run what this run takes. None, which lets pytest go on, without --share."""
    folder: Path | None = session.config.getoption("share")
    if folder is None or session.config.option.collectonly or session.testsfailed:
        return None
    parent = os.getppid()
    for group in claimed_groups(folder, grouped(session.items)):
        # No next test after the last one: pytest then tears down the group's fixtures, which no later group uses.
        for item, following in zip(group.items, [*group.items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if os.getppid() != parent:
                raise session.Interrupted("side_by_side was killed")
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Name the test that was running when the run was interrupted: of a run that was cut off, the one that hung."""
    if exitstatus == pytest.ExitCode.INTERRUPTED and (running := os.environ.get("PYTEST_CURRENT_TEST")):
        terminalreporter.write_line(f"interrupted in {running}")


def grouped(items: Sequence[pytest.Item]) -> list[Group]:
    """The groups of these tests: those that take longest first, those that run alone last, else in their order."""
    found: dict[str, Group] = {}
    for item in items:
        name = _marked(item, "setup") or item.nodeid.partition("::")[0]
        group = found.setdefault(name, Group(name=name, lane=_marked(item, "lane")))
        group.alone = group.alone or item.get_closest_marker("alone") is not None
        group.items.append(item)
    return sorted(found.values(), key=lambda group: (group.alone, group.name not in LONG))


def claimed_groups(folder: Path, groups: Sequence[Group]) -> Iterator[Group]:
    """One group after another that nobody else has, until there is none. A lane is held while its group is in use."""
    remaining = list(groups)
    while remaining:
        waiting = []
        for group in remaining:
            with _lane(folder, group.lane) as free, _beside(folder, alone=group.alone) as possible:
                if not free or not possible:
                    waiting.append(group)
                elif _take(folder, group.name):
                    yield group
        remaining = waiting
        if remaining:
            time.sleep(_RETRY_S)


@contextmanager
def alone_in(config: pytest.Config, lane: str) -> Iterator[None]:
    """Wait for a lane, and hold it for the length of the block: for the part of a set-up that needs it."""
    # One test by itself (`make one`) does not load this plugin.
    folder: Path | None = config.getoption("share", default=None)
    if folder is None:
        yield
        return
    with _lane_file(folder, lane) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _take(folder: Path, name: str) -> bool:
    """Take a group for this run; False where another run has taken it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(folder / f"group-{_file_name(name)}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    return False


@contextmanager
def _beside(folder: Path, *, alone: bool) -> Iterator[bool]:
    """Keep groups apart that run alone; whether this one may run now. The kernel frees the place of a killed run."""
    with (folder / "beside").open("w") as file:
        yield _locked(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)


@contextmanager
def _lane(folder: Path, name: str | None) -> Iterator[bool]:
    """Hold a lane, unless somebody else does; whether it is held. The kernel frees the lane of a killed run."""
    if name is None:
        yield True
        return
    with _lane_file(folder, name) as file:
        yield _locked(file)


def _lane_file(folder: Path, name: str) -> IO[str]:
    return (folder / f"lane-{_file_name(name)}").open("w")


def _locked(file: IO[str], how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _marked(item: pytest.Item, marker: str) -> str | None:
    found = item.get_closest_marker(marker)
    return None if found is None else str(found.args[0])

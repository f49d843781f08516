"""What a person sees of a build: moving lines on a terminal, plain timed lines elsewhere.

Only the runner's main thread calls it.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """Shows steps as they start and end. Times are seconds of wall clock."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def started(self, name: str, reason: str) -> None: ...
    def ended(self, name: str, outcome: str) -> None: ...
    def report(self, line: str) -> None: ...


class PlainProgress:
    """One line per event, with the seconds since the build began."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._since: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def started(self, name: str, reason: str) -> None:
        self._since[name] = time.monotonic()
        self.report(f"{name}: building ({reason})")

    def ended(self, name: str, outcome: str) -> None:
        took = time.monotonic() - self._since.pop(name, self._begin)
        self.report(f"{name}: {outcome} in {took:.1f} s")

    def report(self, line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._begin:7.1f} s  {line}\n")
        sys.stdout.flush()


class TerminalProgress:
    """A line with a running clock for each step that runs; above them a line of text for each step that ended."""

    def __init__(self) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        self._rich: RichProgress = Progress(
            SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False), transient=True
        )
        self._tasks: dict[str, TaskID] = {}
        self._since: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rich.stop()

    def started(self, name: str, reason: str) -> None:
        self._since[name] = time.monotonic()
        self._tasks[name] = self._rich.add_task(f"{name} ({reason})", total=None)

    def ended(self, name: str, outcome: str) -> None:
        if name in self._tasks:
            self._rich.remove_task(self._tasks.pop(name))
        took = time.monotonic() - self._since.pop(name, time.monotonic())
        self.report(f"{name}: {outcome} in {took:.1f} s")

    def report(self, line: str) -> None:
        self._rich.console.print(line, markup=False, highlight=False)


def chosen() -> Progress:
    """The one that fits standard output."""
    return TerminalProgress() if sys.stdout.isatty() else PlainProgress()


def report(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

"""The parts of a night: commands with a latest end. Each leaves nothing running, however it ends."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# A part that is told to end removes clusters and labs first.
GRACE_S = 120.0
_PAUSE_S = 0.2
# How a part ended.
WELL, FAILED, CUT_OFF, BROKEN_OFF, NOT_RUN = "well", "failed", "cut off", "broken off", "not run"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A command, and when it has to have ended, in s after the night began."""

    name: str
    argv: tuple[str, ...]
    ends_at_s: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a part ended, how long it took and was allowed to, and what to say of it."""

    name: str
    ended: str
    seconds: float = 0.0
    limit_s: float = 0.0
    problem: str = ""

    @classmethod
    def parse(cls, document: Any) -> Outcome:
        """The outcome of a JSON value. Raises TypeError."""
        found = cls(**document)
        texts, numbers = (found.name, found.ended, found.problem), (found.seconds, found.limit_s)
        if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, int | float) for one in numbers):
            raise TypeError(f"no outcome of a part: {document!r}")
        return found

    def as_json(self) -> dict[str, Any]:
        """The value that `parse` reads."""
        return dataclasses.asdict(self) | {"seconds": round(self.seconds, 1), "limit_s": round(self.limit_s)}


def run(part: Part, log: Path, began: float, *, grace_s: float = GRACE_S) -> Outcome:
    """Run a part to its end or to its latest end; its output is shown, and is in `log`.

    `began` is the night's beginning by time.monotonic. At the latest end, and when this process gets a Ctrl-C or a
    SIGTERM (as KeyboardInterrupt), the part is interrupted, has `grace_s` to clean up, and is killed then with all that
    it started. A second Ctrl-C kills it at once. The outcome says BROKEN_OFF; nothing is raised.
    """
    started = time.monotonic()
    limit_s = max(0.0, began + part.ends_at_s - started)

    def outcome(ended: str, problem: str = "") -> Outcome:
        took_s = time.monotonic() - started
        return Outcome(name=part.name, ended=ended, seconds=took_s, limit_s=limit_s, problem=problem)

    if limit_s <= 0:
        return outcome(NOT_RUN, "the parts before it took all the time")
    argv = [sys.executable, "-m", "tests.nightly.reaper", *part.argv]
    try:
        with log.open("wb") as out:
            child = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
    except OSError as error:
        return outcome(FAILED, f"it could not be started: {error}")
    shown = _Shown(log)
    try:
        if _waited(child, started + limit_s, shown):
            status = child.wait()
            return outcome(WELL) if status == 0 else outcome(FAILED, f"it ended with status {status}")
        cut_off = f"cut off after {duration(limit_s)}"
        return outcome(CUT_OFF, cut_off + _ended(child, grace_s, shown))
    except KeyboardInterrupt:
        return outcome(
            BROKEN_OFF, f"broken off after {duration(time.monotonic() - started)}{_ended(child, grace_s, shown)}"
        )
    finally:
        shown.more()


def duration(seconds: float) -> str:
    """Seconds as `0.4 s`, `48 s`, `12 min`, or `1 h 12 min`."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.{1 if seconds < 9.95 else 0}f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _ended(child: subprocess.Popen[bytes], grace_s: float, shown: _Shown) -> str:
    """Interrupt a part, and kill it when it does not end; what to say of it beside that."""
    killed = ""
    try:
        child.send_signal(signal.SIGINT)
        if not _waited(child, time.monotonic() + grace_s, shown):
            killed = f", and killed as it did not clean up within {duration(grace_s)}"
    except KeyboardInterrupt:
        killed = ", and killed at the second interrupt"
    if killed:
        child.send_signal(signal.SIGTERM)
        # Its own limit for killing is shorter.
        if not _waited(child, time.monotonic() + 30, shown):
            child.kill()
            child.wait()
    return killed


def _waited(child: subprocess.Popen[bytes], deadline: float, shown: _Shown) -> bool:
    """Show a part's output until it has ended, which is true, or until the deadline."""
    while child.poll() is None:
        if time.monotonic() >= deadline:
            return False
        shown.more()
        time.sleep(_PAUSE_S)
    return True


class _Shown:
    """What a file has got, printed on and on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def more(self) -> None:
        """Print what is new."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        self._at += len(new)
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()

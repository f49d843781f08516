"""dockerd among the processes of this host, where no systemd says which one it is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from overlayd.docker import flags as docker_flags

_PROC = Path("/proc")
_NAME = b"dockerd"  # CentOS 7 calls it dockerd-current.
# The names of all processes are read this often, in seconds: one may become dockerd long after it began (execve(2)).
ALL_S = 30.0


class DockerdSearch:
    """Finds the dockerd of this network namespace. For one thread.

    The name of a process is read when it is new and at the next look, as a shell may become dockerd by then; the names
    of all every ALL_S. A dockerd that was found is asked alone as long as it runs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Looks at nothing yet. `clock` is in seconds."""
        self._clock = clock
        self._found: str | None = None
        self._before: frozenset[str] = frozenset()
        self._settled: frozenset[str] = frozenset()
        self._all_at = clock()

    def argv(self) -> tuple[str, ...] | None:
        """Its command line; None where none runs."""
        if self._found is not None and (argv := _dockerd(self._found)):
            return argv
        self._found = None
        try:
            own = (_PROC / "self/ns/net").readlink()
            # Names alone: each look has them, and a Path for each takes ten times as long.
            there = frozenset(filter(str.isdigit, os.listdir(_PROC)))  # noqa: PTH208
        except OSError:
            return None
        now = self._clock()
        if now - self._all_at >= ALL_S:
            self._before = self._settled = frozenset()
            self._all_at = now
        unsettled = there - self._settled
        self._settled, self._before = (self._settled | self._before) & there, there
        for pid in sorted(unsettled, key=int):
            if _named_dockerd(pid) and (argv := _dockerd(pid)) and _namespace(pid) == own:
                self._found = pid
                return argv
        return None


def argv_of(pid: str | int) -> tuple[str, ...]:
    """The command line of a process; empty where there is none, or this user may not look at it."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ()
    return tuple(words[:-1])


def runs(pid: int) -> bool:
    """Whether there is a process of that number."""
    return (_PROC / str(pid)).exists()


def _dockerd(pid: str) -> tuple[str, ...] | None:
    """Its command line, if it is a dockerd."""
    argv = argv_of(pid)
    return argv if docker_flags.is_dockerd(argv) else None


def _named_dockerd(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:  # noqa: PTH123 (of hundreds of processes)
            return file.read(len(_NAME)) == _NAME
    except OSError:
        return False


def _namespace(pid: str) -> Path | None:
    try:
        return (_PROC / pid / "ns/net").readlink()
    except OSError:
        return None

"""Processes of others by proc(5): they may end while they are looked at."""

from __future__ import annotations

from pathlib import Path


def name_of(pid: int | str) -> str:
    """The name of a process; empty where it has ended."""
    return _read(pid, "comm").strip()


def command_line(pid: int | str) -> str:
    """The words of a process, each with a zero byte behind it; empty where it has ended, also for a zombie."""
    return _read(pid, "cmdline")


def runs(pid: int | str) -> bool:
    """Whether a process is there and has not ended: a zombie has, and waits for its parent, or for init."""
    return _stat(pid)[0] not in ("", "Z", "X")


def group_runs(group: int) -> bool:
    """Whether any process of a process group has not ended."""
    running = (pid.name for pid in Path("/proc").iterdir() if pid.name.isdigit() and runs(pid.name))
    return any(_stat(pid)[2] == str(group) for pid in running)


def _stat(pid: int | str) -> list[str]:
    """State, parent, process group and so on; empty texts where it has ended and is gone."""
    return _read(pid, "stat").rpartition(")")[2].split() or [""] * 3


def _read(pid: int | str, file: str) -> str:
    try:
        return Path("/proc", str(pid), file).read_text()
    except OSError:
        return ""

"""Processes of others by proc(5): they may end while they are looked at."""

from __future__ import annotations

from pathlib import Path


def name_of(pid: int | str) -> str:
    """The name of a process; empty where it has ended."""
    return _read(pid, "comm").strip()


def command_line(pid: int | str) -> str:
    """The words of a process, each with a zero byte behind it; empty where it has ended, also for a zombie."""
    return _read(pid, "cmdline")


def _read(pid: int | str, file: str) -> str:
    try:
        return Path("/proc", str(pid), file).read_text()
    except OSError:
        return ""

"""`python -m tests.nightly.reaper COMMAND …`: run a command, and let none of its descendants outlive it.

A process whose parent ends becomes a child of this one (prctl(2), PR_SET_CHILD_SUBREAPER), also one in a session or
process group of its own, which no signal to a group reaches. When the command has ended, what is left is killed. SIGINT
is handed on to the command, which cleans up by itself; at SIGTERM, and when our parent ends, all is killed at once.
The exit status is the command's, or 128 and the number of the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

# prctl(2), as in linux/prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_KILLED_WITHIN_S = 10.0


def main(argv: list[str]) -> int:
    """Run it; its exit status."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    started: list[subprocess.Popen[bytes]] = []

    def hand_on(_number: int, _frame: FrameType | None) -> None:
        for one in started:
            one.send_signal(signal.SIGINT)

    def kill(_number: int, _frame: FrameType | None) -> None:
        kill_descendants(*(one.pid for one in started))

    signal.signal(signal.SIGINT, hand_on)
    signal.signal(signal.SIGTERM, kill)
    child = subprocess.Popen(argv, start_new_session=True)
    started.append(child)
    status = child.wait()
    if left := kill_descendants():
        sys.stderr.write(f"killed what it left running: {', '.join(left)}\n")
    return status if status >= 0 else 128 - status


def kill_descendants(*awaited: int) -> list[str]:
    """Kill all processes below this one, until none is left or time is over; their names.

    Somebody else waits for the end of those whose ids are `awaited`.
    """
    deadline, names = time.monotonic() + _KILLED_WITHIN_S, dict[int, str]()
    while time.monotonic() < deadline:
        found = descendants(os.getpid())
        if not found:
            break
        for pid, name in found.items():
            names.setdefault(pid, name)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        for pid in found.keys() - set(awaited):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    return [f"{name} ({pid})" for pid, name in names.items()]


def descendants(root: int) -> dict[int, str]:
    """The processes below one that have not ended, by their id, with their names: proc(5)."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            before, _, after = (folder / "stat").read_text(errors="replace").rpartition(")")
            state, parent = after.split()[:2]
            if state not in "ZX":
                parents[int(folder.name)] = (int(parent), before.partition("(")[2])
    found: dict[int, str] = {}
    for pid, (_parent, name) in parents.items():
        above: int | None = pid
        while above is not None and above != root:
            above = parents[above][0] if above in parents else None
        if above == root and pid != root:
            found[pid] = name
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

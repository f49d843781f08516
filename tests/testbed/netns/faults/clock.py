"""A daemon whose clock a test moves while it runs."""

from __future__ import annotations

from collections.abc import Callable

from tests.testbed.netns.lab import SOURCES, Host

# These are the variables that the command `faketime` sets. The clock is read from a file again and again, so it jumps
# when the file changes. Shared memory would outlive a killed daemon. $LIB: see ld.so(8).
_FAKETIME = (
    "LD_PRELOAD=/usr/$LIB/faketime/libfaketimeMT.so.1",
    "DONT_FAKE_MONOTONIC=1",
    "FAKETIME_CACHE_DURATION=1",
    "FAKETIME_DISABLE_SHM=1",
)
# libfaketime 0.9.10 hands clock_nanosleep a wrong deadline now and then (EINVAL: one of 50 calls of time.sleep).
_SLEEP = """import select, time

def _sleep(seconds):
    select.select([], [], [], seconds)

time.sleep = _sleep
"""


def with_movable_clock(host: Host) -> Callable[[str], None]:
    """Give the daemon that a host starts next a clock of its own, which the returned function sets.

    It takes what faketime(1) does: `+1d` is a day ahead of the right time, `+0` is right.
    """
    folder = host.log.with_name("clock")
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(_SLEEP)
    file = folder / "offset"

    def move(offset: str) -> None:
        beside = file.with_name("offset.new")
        beside.write_text(f"{offset}\n")
        beside.replace(file)

    move("+0")
    host.launcher = ("env", *_FAKETIME, f"FAKETIME_TIMESTAMP_FILE={file}", f"PYTHONPATH={folder}:{SOURCES}")
    return move

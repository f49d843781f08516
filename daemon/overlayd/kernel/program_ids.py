"""The mark of programs that are attached by TCX: their ids, which each network of this host notes beside its lock.

What else would tell whose a program is takes CAP_SYS_ADMIN to read. An id is noted before its program is attached, so
that a daemon that was killed leaves none without a note. The kernel gives an id once in a boot.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from overlayd.errors import OverlaydError
from overlayd.lib import hostlock
from overlayd.lib.files import read_json, write_atomically
from overlayd.lib.marks import HIGHEST_NUMBER, ours

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def of_ours() -> frozenset[int]:
    """The ids that this process's network noted since the host was booted. Never raises."""
    return _read(ours().number)


def of_others() -> frozenset[int]:
    """Those of the other networks of this host. Never raises: a note that cannot be read is left out."""
    return frozenset().union(*(_read(number) for number in range(HIGHEST_NUMBER + 1) if number != ours().number))


def note(ids: Collection[int]) -> None:
    """Make these the ids of this network; unchanged ones are not written again. Raises OverlaydError."""
    try:
        text = json.dumps({"boot": _boot(), "programs": sorted(ids)})
        write_atomically(_path(ours().number), f"{text}\n")
    except OSError as error:
        raise OverlaydError(f"cannot note the ids of BPF programs: {error}") from error


def forget() -> Iterator[str]:
    """Remove the note of this network; yields what was removed."""
    path = _path(ours().number)
    if path.exists():
        path.unlink(missing_ok=True)
        yield str(path)


def _read(number: int) -> frozenset[int]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = read_json(_path(number))
        # Where /run outlives a boot, a number in there may be another program's by now.
        if found["boot"] == _boot():
            return frozenset(int(one) for one in found["programs"])
    return frozenset()


@cache
def _boot() -> str:
    return _BOOT.read_text().strip()


def _path(number: int) -> Path:
    return hostlock.FOLDER / f"{hostlock.namespace()}-{number}.programs"

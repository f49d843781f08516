"""One daemon for each network of a host: a lock that the kernel drops when its holder dies, however it dies.

What overlayd marks as its own in the kernel has one mark for each network-number (marks.py), whatever run-dir a daemon
was given: two daemons of one number would undo each other's work. So there is one lock for each number in each network
namespace, as routes and rules belong to a namespace.
Only root may open the file: flock(2) needs no more than a descriptor, so anybody who may read it could keep all daemons
out. Whether a daemon runs is read from its status (monitoring/status_file.py), not by trying the lock, which would be
in the way of a daemon that starts.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlayd.errors import BusyError, OverlaydError
from overlayd.lib.marks import ours
from overlayd.lib.ownership import require_ours

FOLDER = Path("/run/overlayd")
_NAMESPACE = Path("/proc/self/ns/net")
# The daemon before may just be ending. systemd does not restart a daemon that ends with BusyError.
WAIT_S = 3.0
_PAUSE_S = 0.05


def namespace() -> int:
    """The number of this process's network namespace."""
    return _NAMESPACE.stat().st_ino


@contextmanager
def hold(*, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the host's lock. Raises BusyError when another process does, also `wait_s` later, and OverlaydError."""
    descriptor, path = _taken(time.monotonic() + wait_s)
    try:
        yield
    finally:
        # While the lock is held: a process that waits for it sees that the file is gone, and makes a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(deadline: float) -> tuple[int, Path]:
    try:
        path = FOLDER / f"{namespace()}{f'-{ours().number}' if ours().number else ''}.lock"
        FOLDER.mkdir(mode=0o755, exist_ok=True)
        require_ours(FOLDER, "the lock's folder")
        while True:
            descriptor = _open(path)
            if descriptor is not None:
                if _try(descriptor) and _is(path, descriptor):
                    return descriptor, path
                os.close(descriptor)
            if time.monotonic() > deadline:
                raise BusyError(
                    f"another overlayd runs on this host for network {ours().number} (it holds {path}); there may be "
                    "one for each number, whatever their run-dirs",
                    hint=f"systemctl stop {ours().unit}; or another network-number, for a second network beside it",
                )
            time.sleep(_PAUSE_S)
    except OSError as error:
        # systemd starts it again: a /run that is full may have been filled by any user, and is emptied again.
        raise OverlaydError(f"the lock in {FOLDER} cannot be taken: {error.strerror}") from error


def _open(path: Path) -> int | None:
    """A descriptor of the lock, which only root may open. Anything else in its place is removed; then None."""
    try:
        # Not inherited by children (PEP 446), so a stray one cannot keep the lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return descriptor
        os.close(descriptor)
    except OSError:
        if not path.is_symlink() and not path.exists():
            raise
    path.unlink(missing_ok=True)
    return None


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: Path, descriptor: int) -> bool:
    """Whether the file that has the name is still the one that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False

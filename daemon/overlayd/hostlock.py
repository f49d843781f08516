"""One daemon a host: a lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlayd.errors import BusyError, ConfigError

FILE = "lock"


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Hold the host's lock (flock(2)). Raises BusyError when another process does, ConfigError."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        # Not inherited by children (PEP 446), so a stray one cannot keep the lock.
        descriptor = os.open(run_dir / FILE, os.O_RDWR | os.O_CREAT, 0o644)
        # Whatever the umask is: `overlayd status` looks at it, and everybody may do that.
        os.fchmod(descriptor, 0o644)
    except OSError as error:
        raise ConfigError(f"run-dir {run_dir} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"another overlayd runs on this host (it holds {run_dir / FILE})",
                hint="systemctl stop overlayd",
            ) from None
        yield
    finally:
        os.close(descriptor)


def held(run_dir: Path) -> bool:
    """Whether a daemon runs on this host."""
    try:
        descriptor = os.open(run_dir / FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

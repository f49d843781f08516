"""Locks among all processes of a user on this machine, whichever checkout they are of: files, locked by flock(2).

The files are below `folder()`. The kernel frees a lock when its holder ends in any way. The file stays: if it were
removed while a second process waits for it, a third could lock a new one.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from images.engine.errors import BuildError

_ROOTS = Path("/run/overlayd-build")
_HOLDER_BYTES = 400


def folder(root: Path = _ROOTS) -> Path:
    """The folder for files by which processes of this user agree; no other user may read or change it.

    Root's is below /run. Other users, who may be in the group `docker`, have one in their runtime folder or in /tmp.
    Raises BuildError.
    """
    found = root
    if os.geteuid() != 0:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        found = Path(runtime, "overlayd-build") if runtime else Path("/tmp", f"overlayd-build-{os.geteuid()}")
    try:
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = found.lstat()
        # In /tmp another user may have put a link or a folder of this name.
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
            raise BuildError(f"{found} is not a folder of the user {os.geteuid()}", hint="see that it is removed")
        if stat.S_IMODE(seen.st_mode) != 0o700:
            found.chmod(0o700)
    except OSError as error:
        raise BuildError(f"{found} cannot be made: {error.strerror}", hint="locks are kept there") from error
    return found


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@contextmanager
def held(path: Path, what: str, command: str, report: Callable[[str], None] = _to_stderr) -> Iterator[int]:
    """Hold the lock during the block. Where another process has it, report which, and wait.

    What is given is the number of its file: a child that gets it (subprocess, `pass_fds`) holds the lock on.

    `what` names what is locked, for that message; `command` is our own, for the message of a process that waits for us.
    Raises BuildError where the file cannot be made.
    """
    file = _taken(path, what, report)
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()} {command}"[:_HOLDER_BYTES].encode(), 0)
        yield file
    finally:
        with suppress(OSError):
            os.ftruncate(file, 0)
        os.close(file)


def _taken(path: Path, what: str, report: Callable[[str], None]) -> int:
    """The locked file. Where it was removed while we waited, a new one is made: others lock the file of that name."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise BuildError(f"lock {path}: {error.strerror}", hint="remove the file") from error
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"{what}: waiting for {_holder(file)} to end")
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.lstat()):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _holder(file: int) -> str:
    number, _, command = os.pread(file, _HOLDER_BYTES, 0).decode(errors="replace").partition(" ")
    if not number.isdigit():
        return "another process"
    return f"process {number} ({command})" if command else f"process {number}"

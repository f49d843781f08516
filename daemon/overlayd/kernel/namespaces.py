"""Function calls in another network namespace (namespaces(7)), each in a thread of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# linux/sched.h
CLONE_NEWNET = 0x40000000
# Docker's since 1.8 (its exec-root's netns), and iproute2's.
FOLDERS = (Path("/run/docker/netns"), Path("/run/netns"))
# The kernel's own file system of namespaces (nsfs).
_DEVICE = Path("/proc/self/ns/net").stat().st_dev


def in_new_namespace(call: Callable[[], T]) -> T:
    """Call a function in a new network namespace, which ends with the call. Raises OSError (EPERM: not root)."""
    return _in_a_thread(lambda libc: libc.unshare(CLONE_NEWNET), call)


def in_namespace(path: Path, call: Callable[[], T]) -> T:
    """Call a function in the network namespace of a file: `/proc/PID/ns/net`, or one that it is mounted on.

    Raises OSError (EPERM: without CAP_SYS_ADMIN).
    """

    def enter(libc: ctypes.CDLL) -> int:
        with path.open("rb") as namespace:
            return int(libc.setns(namespace.fileno(), CLONE_NEWNET))

    return _in_a_thread(enter, call)


def others() -> Iterator[tuple[Path, int]]:
    """A file for each other network namespace that can be found: Docker's, those of `ip netns`, those of processes.

    With each comes its inode number, which no other namespace of this kernel has while it exists (ioctl_ns(2)).
    """
    seen = {_inode(Path("/proc/self/ns/net"))}
    for path in _files():
        inode = _inode(path)
        if inode is not None and inode not in seen:
            seen.add(inode)
            yield path, inode


def _files() -> Iterator[Path]:
    for folder in FOLDERS:
        with contextlib.suppress(OSError):
            yield from sorted(folder.iterdir())
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            yield process / "ns/net"


def _inode(path: Path) -> int | None:
    """The inode number of the namespace of a file; None for any other file, and for one that may not be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino if found.st_dev == _DEVICE else None


def _in_a_thread(enter: Callable[[ctypes.CDLL], int], call: Callable[[], T]) -> T:
    outcome: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if enter(libc):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            outcome.append(call())
        except BaseException as error:
            # Raised again where the call was made.
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return outcome[0]

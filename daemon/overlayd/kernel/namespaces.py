"""Calls made in another network namespace, by a thread of its own that ends with the call (namespaces(7))."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# linux/sched.h
CLONE_NEWNET = 0x40000000


def in_a_new_one(call: Callable[[], T]) -> T:
    """Call in a new network namespace, which ends with the call. Raises OSError (EPERM: not root)."""
    return _in_a_thread(lambda libc: libc.unshare(CLONE_NEWNET), call)


def in_that_of(pid: int, call: Callable[[], T]) -> T:
    """Call in the network namespace of a process. Raises OSError."""

    def enter(libc: ctypes.CDLL) -> int:
        with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
            return int(libc.setns(namespace.fileno(), CLONE_NEWNET))

    return _in_a_thread(enter, call)


def _in_a_thread(enter: Callable[[ctypes.CDLL], int], call: Callable[[], T]) -> T:
    outcome: list[T | OSError] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            if enter(libc):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            outcome.append(call())
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]

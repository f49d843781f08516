"""Being told to stop, by a signal that may come at any moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def calling(told: Callable[[], None]) -> Iterator[None]:
    """During the block, call `told` in a thread of its own when SIGTERM or SIGINT comes. For the main thread.

    Not in the handler itself: that runs between any two steps of the main thread, which may just hold the lock that
    `told` wants, that of a threading.Event for instance, and would then wait for itself.
    """
    came = os.eventfd(0, os.EFD_CLOEXEC)
    over = threading.Event()

    def listen() -> None:
        while True:
            # Not os.eventfd_read: that one ends with InterruptedError where the kernel gives the signal to this thread.
            os.read(came, 8)
            if over.is_set():
                return
            told()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        os.eventfd_write(came, 1)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    before = {number: signal.signal(number, handle) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        over.set()
        os.eventfd_write(came, 1)
        thread.join()
        os.close(came)

"""Being told to stop, by a signal that may come at any moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT)
_OVER = b"\0"


@contextmanager
def calling(told: Callable[[], None]) -> Iterator[None]:
    """During the block, call `told` in a thread of its own when SIGTERM or SIGINT comes. For the main thread.

    Not in the handler itself: that runs between any two steps of the main thread, which may just hold the lock that
    `told` wants, that of a threading.Event for instance, and would then wait for itself. And not when the handler runs:
    where the kernel gives the signal to another thread, the main one sleeps on. Python writes the signal's number into
    a pipe at once, in whatever thread it comes (signal.set_wakeup_fd).
    """
    heard, came = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(came, False)

    def listen() -> None:
        # Not from an eventfd: os.eventfd_read ends with InterruptedError where this thread is given the signal.
        while not (numbers := os.read(heard, 64)).endswith(_OVER):
            for number in numbers:
                if number in STOPS:
                    told()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        """Nothing: it only has to be Python's own."""

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    fd_before = signal.set_wakeup_fd(came, warn_on_full_buffer=False)
    before = {number: signal.signal(number, handle) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        os.write(came, _OVER)
        thread.join()
        os.close(came)
        os.close(heard)

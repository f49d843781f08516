"""Calls a function when a signal asks this process to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_END = b"\0"


@contextmanager
def calling(on_stop: Callable[[], None]) -> Iterator[None]:
    """During the block, call `on_stop` in a thread of its own when SIGTERM or SIGINT comes. For the main thread.

    It is not called in the handler: that runs between any two steps of the main thread, which may hold the lock that
    `on_stop` wants, that of a threading.Event for instance, and would then wait for itself. Nor does it wait for the
    handler: where the kernel gives the signal to another thread, the main one sleeps on. Python writes the signal's
    number into a pipe at once, in whatever thread it comes (signal.set_wakeup_fd).
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_end, False)

    def listen() -> None:
        # Not from an eventfd: os.eventfd_read ends with InterruptedError where this thread is given the signal.
        while not (numbers := os.read(read_end, 64)).endswith(_END):
            for number in numbers:
                if number in STOP_SIGNALS:
                    on_stop()

    def ignore(_signal: int, _frame: FrameType | None) -> None:
        """Do nothing: only for signals with a handler of its own does Python write to the pipe."""

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    fd_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    before = {number: signal.signal(number, ignore) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        os.write(write_end, _END)
        thread.join()
        os.close(write_end)
        os.close(read_end)

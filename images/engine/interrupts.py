"""A SIGTERM as an exception, so that what a block began is ended as it is after Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def sigterm_raises(error: BaseException | type[BaseException] = KeyboardInterrupt) -> Iterator[None]:
    """During the block a SIGTERM raises `error` in the main thread. In any other thread this changes nothing."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise error

    before: Callable[..., object] | int | None = None
    with suppress(ValueError):  # only the main thread may set a handler
        before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)

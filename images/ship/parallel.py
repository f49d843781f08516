"""The same work on many things, on several cores, which can be stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from images.engine.process import Stop

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], things: Iterable[T], stop: Stop) -> list[R]:
    """The results of `work` for each thing, in the order of the things. There is a thread for each core.

    When one call fails, or on Ctrl-C, `stop` is set and no more calls are begun. The exception is raised when those
    that run have ended.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        try:
            return list(pool.map(work, things))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

"""The same work on many things, side by side, until it is told to stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from images.engine.process import Stop

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], things: Iterable[T], stop: Stop) -> list[R]:
    """What `work` makes of each thing, in their order; a thread for each core.

    When one fails, or Ctrl-C comes, `stop` is set, nothing more is begun, and what was begun has ended before the
    exception goes on.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        try:
            return list(pool.map(work, things))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

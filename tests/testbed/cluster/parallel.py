"""The same work on several hosts at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def each(work: Callable[[A], T], items: Iterable[A]) -> list[T]:
    """Do the work for every item, all at once; the results in the items' order.

    Raises the first failure, and does not wait for the others then: their hosts are about to be removed.
    """
    pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="host")
    try:
        futures = [pool.submit(work, item) for item in items]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def drain(timeout_s: float) -> None:
    """Wait for work that a failed `each` left running."""
    for thread in threading.enumerate():
        if thread.name.startswith("host_"):
            thread.join(timeout_s)

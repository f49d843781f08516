"""Calls a function again and again, in a thread of its own, as a call to etcd may take seconds."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from overlayd.errors import StoreError
from overlayd.lib.log import logger

log = logger("periodic")


def jittered(delay_s: float) -> float:
    """A random delay between half of `delay_s` and all of it, so that a fleet does not come back all at once."""
    return delay_s * random.uniform(0.5, 1)


def all_at_once(*calls: Callable[[], None]) -> None:
    """Make these calls at the same time, and wait for all: it takes as long as the longest. None of them may raise."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Periodic:
    """Calls `call` every `interval_s` seconds from `start` to `stop`; after a StoreError again within `retry_s`."""

    def __init__(self, name: str, call: Callable[[], None], *, interval_s: float, retry_s: float) -> None:
        self._name = name
        self._call = call
        self._interval_s = interval_s
        self._retry_s = min(retry_s, interval_s)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call comes an interval later."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; the call that is under way is finished."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait_s = self._interval_s
        while not self._stopping.wait(wait_s):
            wait_s = self._interval_s
            try:
                self._call()
            except StoreError as error:
                log.debug("trying again", what=self._name, problem=error.message)
                wait_s = jittered(self._retry_s)

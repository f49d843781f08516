"""Waiting in tests: for a condition, with a deadline; never for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

DEADLINE_S = 20.0
_PAUSE_S = 0.02


def until(condition: Callable[[], object], *, within_s: float = DEADLINE_S, what: str = "the condition") -> None:
    """Return as soon as `condition()` is true; fail the test if that is not so within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s:g} s"
        pause.wait(_PAUSE_S)

"""Waiting: for a condition, with a deadline; never for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from overlayd.errors import OverlaydError

T = TypeVar("T")

# Tests run beside others, on two processors: long enough that only what never comes is missed.
TIMEOUT_S = 40.0
_PAUSE_S = 0.05


def eventually(what: str, condition: Callable[[], T], *, timeout_s: float = TIMEOUT_S) -> T:
    """Ask until the answer is true and return it. Raises OverlaydError with the last answer after `timeout_s`."""
    pause, deadline = threading.Event(), time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() >= deadline:
            raise OverlaydError(f"{what}: not within {timeout_s:g} s; last answer {answer!r}")
        pause.wait(_PAUSE_S)
    return answer


def until(condition: Callable[[], object]) -> None:
    """The same for a condition that explains itself."""
    eventually("the condition", condition)

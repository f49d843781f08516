"""A clock for tests of what waits: its time is a value."""

from __future__ import annotations


class Clock:
    """To be handed in where time.monotonic is. It stands until a test moves it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

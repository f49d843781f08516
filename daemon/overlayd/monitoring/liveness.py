"""Liveness: each loop of the daemon announces by when it will be heard of next, and is late after that."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST_SLACK_S = 30.0


class Liveness:
    """The loops of one daemon. Called from any thread.

    Only what runs in rounds has a place here; a thread of ours that dies ends the whole daemon (`daemon.py`).
    """

    def __init__(self, *, slack_s: float = LEAST_SLACK_S, clock: Callable[[], float] = time.monotonic) -> None:
        """`slack_s`: how much longer than announced a round may take before it counts as stuck. `clock`: seconds."""
        self._slack_s = slack_s
        self._clock = clock
        self._due: dict[str, tuple[float, float]] = {}

    def beat(self, name: str, *, within_s: float) -> None:
        """`name` is alive now, and will be heard of again within so many seconds if all goes well."""
        now = self._clock()
        self._due[name] = (now, now + within_s + self._slack_s)

    def rounds(self) -> dict[str, str | None]:
        """Each loop with its problem, as a sentence; None for one that is on time."""
        now = self._clock()
        return {
            name: None if now <= due else f"{name} is stuck: not heard of for {now - last:.0f} s"
            for name, (last, due) in sorted(dict(self._due).items())
        }

    def late(self) -> tuple[str, ...]:
        """The problems of those that are stuck."""
        return tuple(problem for problem in self.rounds().values() if problem)

"""One fault of a lab: how it starts and stops, and which connections it may break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


def nothing() -> None:
    """Do nothing: what breaks at once needs no end, and is repaired by the daemon."""


@dataclass(frozen=True, kw_only=True)
class LabFault:
    """A fault. `start` and `stop` are called in turn, by one thread.

    `hosts`: every connection of these hosts may break, from `start` until a while after `stop`. `cut`: the connections
    between two of these may. All others must not lose a packet. `takes` are parts of the lab that no other fault has
    meanwhile. `lasts_s` are the least and most seconds from `start` to `stop`. `settled`: it starts and stops only
    while all hosts are ready. `healed` says after `stop` whether what it broke can be whole again.
    """

    name: str
    start: Callable[[], object]
    stop: Callable[[], object] = nothing
    hosts: frozenset[str] = frozenset()
    cut: frozenset[str] = frozenset()
    takes: frozenset[str] = field(default_factory=frozenset)
    lasts_s: tuple[float, float] = (1.0, 8.0)
    settled: bool = False
    healed: Callable[[], bool] = lambda: True

    def may_break(self, one: str, other: str) -> bool:
        """Whether packets between the containers of two hosts may be lost by it."""
        return bool({one, other} & self.hosts) or {one, other} <= self.cut

"""What some backends have in common: those whose packets the kernel carries alone need only say what it should hold."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import ClassVar, Protocol, runtime_checkable

from overlayd.kernel.converge import ConvergeReport, Plan, converge, require
from overlayd.leases.lease import Lease


@runtime_checkable
class Planned(Protocol):
    """The part of a Backend that follows from its plan."""

    one_route: ClassVar[bool] = False

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """All that the kernel should hold, for these leases. Pure."""
        ...

    def open(self, own: Lease) -> None:
        """See Backend."""
        require(self.plan(own, ()))

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """See Backend."""
        return converge(self.plan(own, peers))

    def run(self, stop: threading.Event) -> None:
        """The kernel carries the packets."""

    def close(self) -> None:
        """Nothing is held here."""


@runtime_checkable
class Keyed(Protocol):
    """The part of a Backend that knows hosts by keys."""

    def part_from(self, others: Collection[Lease]) -> None:
        """Take another key where one of these leases, of hosts that were there before, has this host's."""
        ...

"""What backends share whose packets the kernel carries alone: they need only a plan of what the kernel should hold."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, Protocol, Self, runtime_checkable

from overlayd.backends.environment import Environment
from overlayd.backends.listening import Listening
from overlayd.backends.wire import Wire
from overlayd.kernel.converge import ConvergeReport, Plan, converge, require
from overlayd.leases.lease import Lease
from overlayd.lib.quick_dataclass import dataclass


@runtime_checkable
class Planned(Protocol):
    """The part of a Backend that follows from its plan."""

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """All that the kernel should hold, for these leases. Pure."""
        ...

    def claims(self, peer: Lease) -> Iterable[Hashable]:  # noqa: ARG002 - most have none
        """What a lease that `plan` takes has for itself alone, beside its subnets: no other peer may have it too."""
        return ()

    def wire(self, version: int) -> Wire | None:  # noqa: ARG002 - those that can be written otherwise have their own
        """None: see Backend."""
        return None

    def open(self, own: Lease) -> None:
        """See Backend."""
        require(self.plan(own, ()))

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """See Backend."""
        return converge(self.plan(own, peers))

    def run(self, stop: threading.Event) -> None:
        """The kernel carries the packets."""

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, kw_only=True)
class PlainPackets(Planned):
    """The part of a Backend that encapsulates nothing: peers' packets come by the underlay as containers sent them."""

    environment: Environment

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:  # noqa: ARG003 - it has no keys
        """See Backend."""
        return cls(environment=environment)

    @property
    def mtu_bytes(self) -> int:
        """The underlay's own."""
        return self.environment.underlay.mtu_bytes

    @property
    def devices(self) -> tuple[str, ...]:
        """The underlay's interface."""
        return (self.environment.underlay.ifname,)

    @property
    def listens(self) -> tuple[Listening, ...]:
        """Nothing."""
        return ()

    def lease_data(self, version: int) -> None:
        """Peers need to know nothing but the address."""


@runtime_checkable
class Keyed(Protocol):
    """The part of a Backend that identifies hosts by keys."""

    def replace_shared_key(self, others: Collection[Lease]) -> None:
        """Make a new key if one of these leases, which are older than this host's, has the same key."""
        ...

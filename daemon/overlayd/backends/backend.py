"""What every backend can do: the interface between the daemon and one way for packets to travel."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Protocol, Self

from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts
from overlayd.backends.listening import Listening
from overlayd.backends.wire import Wire
from overlayd.kernel.converge import ConvergeReport
from overlayd.leases.lease import Lease


class Backend(Protocol):
    """One way for packets to travel. Made from the network config, opened with the host's lease, then applied to peers.

    Methods are called by one thread; `run` alone runs beside `apply`, in a thread of its own.
    """

    facts: ClassVar[BackendFacts]
    """What does not depend on the host or the network config."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """Check the backend's part of the network config. Raises NetworkConfigError; changes nothing."""
        ...

    @property
    def mtu_bytes(self) -> int:
        """The largest packet that containers may send: the underlay's MTU less the encapsulation."""
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """The interfaces on which packets from peers' containers arrive."""
        ...

    @property
    def listens(self) -> tuple[Listening, ...]:
        """What this host has to take in from peers' public addresses, besides the overlay's own packets."""
        ...

    def lease_data(self, version: int) -> Mapping[str, Any] | str | None:
        """What peers must know for IP version 4 or 6, as published in the lease. The same after a reboot."""
        ...

    def wire(self, version: int) -> Wire | None:
        """What packets of that IP version look like on the underlay; None where only this backend itself makes them."""
        ...

    def open(self, own: Lease) -> None:
        """Make ready for the host's own lease. Raises KernelRefused, UnsupportedError."""
        ...

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """Make the data path that of exactly these peers. Idempotent: a second call writes nothing."""
        ...

    def run(self, stop: threading.Event) -> None:
        """Carry packets until `stop` is set; returns at once where the kernel does that alone."""
        ...

    def close(self) -> None:
        """Release what only a living process can hold. What is in the kernel stays."""
        ...

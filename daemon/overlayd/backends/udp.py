"""flannel's udp backend: the bare inner IPv4 packet is the UDP datagram. No header; the address says all."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, ClassVar, Protocol, Self

from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts, Carrier, Key
from overlayd.backends.listening import Listening
from overlayd.backends.options import FIRST_PORT, LAST_PORT, Options, largest_packet, require_families
from overlayd.backends.peers import PeerTable
from overlayd.backends.tun import TunForwarder
from overlayd.backends.wire import Wire, WireFormat
from overlayd.kernel import ethtool
from overlayd.kernel.converge import ConvergeReport, Plan, converge, require
from overlayd.kernel.state import Address, Route, TunLink
from overlayd.leases.lease import Lease
from overlayd.lib import marks
from overlayd.lib.addresses import interface

TAKES_UNFINISHED = "TakesUnfinished"
"""In a lease: this host takes packets as the sender's kernel has them, not cut yet and without checksums.

Only where packets may arrive so, by an underlay between network stacks of one machine: elsewhere a lease is flannel's.
"""


class Forwarder(Protocol):
    """What carries the packets between the device and the port: a process, or one day the kernel."""

    table: PeerTable
    problem: str | None
    """Why nothing is carried at the moment."""

    @property
    def way(self) -> str:
        """What the kernel does for several packets at once, by its own names; `packet by packet` where nothing."""
        ...

    def run(self, stop: threading.Event) -> None:
        """Carry until `stop` is set."""
        ...

    def close(self) -> None:
        """Let go of device and port."""
        ...


class Udp:
    """The udp backend on one host."""

    facts: ClassVar[BackendFacts] = BackendFacts(
        name="udp",
        published_as="udp",
        summary="Bare packets in UDP, carried by the daemon, as flannel's udp backend does. Slow; for joining such a "
        "network.",
        keys=(Key(name="Port", help="UDP port.", default=8285, lowest=FIRST_PORT, highest=LAST_PORT),),
        ipv6=False,
        # Outer IPv4 20 or IPv6 40, UDP 8.
        overhead_bytes={4: 28, 6: 48},
        carrier=Carrier(protocol="udp", port_key="Port"),
        device_kind="tun",
        host_answers=True,
        one_route=True,
        runs_commands=False,
        notified=False,
    )

    def __init__(self, environment: Environment, *, port: int, mtu_bytes: int, unfinished: bool = False) -> None:
        """Values only; `open` makes the device and takes the port.

        `unfinished`: packets may arrive by the underlay as another kernel's program sent them (TAKES_UNFINISHED).
        """
        self._environment = environment
        self._port = port
        self._mtu_bytes = mtu_bytes
        self._unfinished = unfinished
        self._forwarder: Forwarder | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Keys: Port."""
        port = Options(cls.facts, config).port("Port")
        require_families(cls.facts, environment.network)
        mtu_bytes = largest_packet(cls.facts, environment.underlay.mtu_bytes, 28)  # outer IPv4, UDP
        unfinished = not ethtool.finishes_packets(environment.underlay.ifname)
        return cls(environment, port=port, mtu_bytes=mtu_bytes, unfinished=unfinished)

    @property
    def mtu_bytes(self) -> int:
        """The underlay's MTU less 28."""
        return self._mtu_bytes

    @property
    def devices(self) -> tuple[str, ...]:
        """The TUN device."""
        return (marks.ours().tun,)

    @property
    def listens(self) -> tuple[Listening, ...]:
        """The UDP port."""
        return (Listening(version=4, protocol="udp", port=self._port),)

    def lease_data(self, version: int) -> Mapping[str, Any] | None:  # noqa: ARG002 - it carries IPv4 only
        """Peers need to know nothing but the address, and on some underlays that this host takes unfinished packets."""
        return {TAKES_UNFINISHED: True} if self._unfinished else None

    def wire(self, version: int) -> Wire:  # noqa: ARG002 - it carries IPv4 only
        """See Backend."""
        return Wire(
            format=WireFormat.UDP,
            device=marks.ours().tun,
            ethernet=False,
            port=self._port,
            paths={self.facts.name: WireFormat.UDP},
            unfinished_key=TAKES_UNFINISHED,
        )

    def open(self, own: Lease) -> None:
        """Make the device and take the port. Raises KernelRefused, UnsupportedError."""
        require(self.plan(own))
        self._forwarder = TunForwarder(
            device=marks.ours().tun,
            local=IPv4Address(str(self._environment.endpoint(4).address)),
            port=self._port,
            mtu_bytes=self._mtu_bytes,
        )

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """See Backend. The kernel's part is the same for any peers: one route for the whole network."""
        plan = self.plan(own, peers)
        usable = [peer for peer in peers if peer.key_name in plan.paths]
        report = converge(plan)
        if self._forwarder is not None:
            self._forwarder.table = PeerTable(usable, self._port)
            report = replace(report, forwarder=self._forwarder.way)
            if self._forwarder.problem is not None:
                report = replace(report, problems=(*report.problems, self._forwarder.problem))
        return report

    def run(self, stop: threading.Event) -> None:
        """Carry packets until told to stop."""
        if self._forwarder is not None:
            self._forwarder.run(stop)

    def close(self) -> None:
        """Let go of the port and the device, which stays."""
        if self._forwarder is not None:
            self._forwarder.close()
            self._forwarder = None

    def plan(self, own: Lease, peers: Collection[Lease] = ()) -> Plan:
        """All that the kernel should hold, for these leases. Pure."""
        device = marks.ours().tun
        selected = self._environment.select_peers(
            peers, own=own, backend_type=self.facts.name, one_route=self.facts.one_route
        )
        return Plan(
            base=(
                *self._environment.base(own),
                TunLink(name=device, mtu_bytes=self._mtu_bytes),
                *(
                    Address(link=device, address=interface(family_lease.subnet.network_address, 32))
                    for family_lease in own.family_leases
                ),
                *(Route(dst=network, link=device) for network in self._environment.network.networks),
            ),
            problems=selected.problems,
            paths={peer.key_name: self.facts.name for peer in selected.served},
            destinations=self._environment.destinations(selected.served),
            networks=self._environment.network.networks,
            unlisted=selected.unlisted,
        )


BACKEND = Udp

"""flannel's udp backend: the bare inner IPv4 packet is the UDP datagram. No header; the address says all."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, ClassVar, Protocol, Self

from overlayd.backends.environment import Environment
from overlayd.backends.listening import Listening
from overlayd.backends.options import Options, largest_packet
from overlayd.backends.peers import PeerTable
from overlayd.backends.tun import TunForwarder
from overlayd.errors import NetworkConfigError
from overlayd.kernel.converge import ConvergeReport, Plan, converge, require
from overlayd.kernel.state import Address, Route, TunLink
from overlayd.leases.lease import Lease
from overlayd.lib import marks
from overlayd.lib.addresses import interface

OVERHEAD_BYTES = 28  # outer IPv4 20, UDP 8
DEFAULT_PORT = 8285


class Forwarder(Protocol):
    """What carries the packets between the device and the port: a process, or one day the kernel."""

    table: PeerTable
    problem: str | None
    """Why nothing is carried at the moment."""

    def run(self, stop: threading.Event) -> None:
        """Carry until `stop` is set."""
        ...

    def close(self) -> None:
        """Let go of device and port."""
        ...


class Udp:
    """The udp backend on one host."""

    type: ClassVar[str] = "udp"
    keys: ClassVar[tuple[str, ...]] = ("Port",)
    one_route: ClassVar[bool] = True

    def __init__(self, environment: Environment, *, port: int, mtu_bytes: int) -> None:
        """Values only; `open` makes the device and takes the port."""
        self._environment = environment
        self._port = port
        self._mtu_bytes = mtu_bytes
        self._forwarder: Forwarder | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Keys: Port."""
        port = Options(cls.type, config, cls.keys).port("Port", DEFAULT_PORT)
        if environment.network.v6 is not None:
            raise NetworkConfigError(
                "backend udp carries IPv4 only",
                hint="set EnableIPv6 to false, or use backend vxlan, host-gw or wireguard",
            )
        mtu_bytes = largest_packet(cls.type, environment.underlay.mtu_bytes, OVERHEAD_BYTES)
        return cls(environment, port=port, mtu_bytes=mtu_bytes)

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

    def lease_data(self, version: int) -> None:
        """Peers need to know nothing but the address."""

    def open(self, own: Lease) -> None:
        """Make the device and take the port. Raises KernelRefused, UnsupportedError."""
        require(self.plan(own))
        self._forwarder = TunForwarder(
            device=marks.ours().tun,
            local=IPv4Address(str(self._environment.endpoint(4).address)),
            port=self._port,
        )

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """See Backend. The kernel's part is the same for any peers: one route for the whole network."""
        plan = self.plan(own, peers)
        usable = [peer for peer in peers if peer.key_name in plan.paths]
        report = converge(plan)
        if self._forwarder is not None:
            self._forwarder.table = PeerTable(usable, self._port)
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
        judged = self._environment.judge(peers, own=own, backend_type=self.type, one_route=self.one_route)
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
            problems=judged.problems,
            paths={peer.key_name: self.type for peer in judged.served},
            destinations=self._environment.destinations(judged.served),
            networks=self._environment.network.networks,
            untold=judged.untold,
        )


BACKEND = Udp

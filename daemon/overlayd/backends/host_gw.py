"""Plain routes: each peer's subnet through the peer itself. For hosts on one network segment; no encapsulation."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, ClassVar, Self

from overlayd.backends.options import Options
from overlayd.backends.peers import refusals
from overlayd.errors import UnsupportedError
from overlayd.kernel.converge import Plan, Report, converge
from overlayd.kernel.state import Route, Thing
from overlayd.lease import Lease
from overlayd.underlay import Underlay


@dataclass(frozen=True, kw_only=True)
class HostGw:
    """The host-gw backend on one host."""

    type: ClassVar[str] = "host-gw"
    network: IPv4Network
    underlay: Underlay

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, network: IPv4Network, underlay: Underlay) -> Self:
        """See Backend. No keys. Raises UnsupportedError where peers could not use this host as a next hop."""
        Options(cls.type, config, ())
        if underlay.public_ip != underlay.address:
            raise UnsupportedError(
                f"backend host-gw: public-ip {underlay.public_ip} is not the address of {underlay.ifname} "
                f"({underlay.address}), so no peer can route to it",
                hint="leave public-ip out, or use backend vxlan or udp",
            )
        return cls(network=network, underlay=underlay)

    @property
    def mtu_bytes(self) -> int:
        """The underlay's own."""
        return self.underlay.mtu_bytes

    @property
    def devices(self) -> tuple[str, ...]:
        """The underlay's interface."""
        return (self.underlay.ifname,)

    def lease_data(self) -> None:
        """Peers need to know nothing but the address."""

    def open(self, own: Lease) -> None:
        """Nothing to make."""

    def apply(self, own: Lease, peers: Collection[Lease]) -> Report:
        """See Backend."""
        return converge(self.plan(own, peers))

    def run(self, stop: threading.Event) -> None:
        """The kernel carries the packets."""

    def close(self) -> None:
        """Nothing is held here."""

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """All that the kernel should hold, for these leases. Pure."""
        reachable: dict[IPv4Network, tuple[Thing, ...]] = {}
        problems = refusals(peers, own=own, network=self.network, backend_type=self.type)
        for peer in peers:
            if peer.subnet in problems:
                continue
            if not self.underlay.reaches_directly(peer.public_ip):
                problems[peer.subnet] = (
                    f"{peer.public_ip} is on no network of {self.underlay.ifname}'s own; "
                    "host-gw needs that, vxlan does not"
                )
            else:
                route = Route(dst=peer.subnet, link=self.underlay.ifname, via=peer.public_ip)
                reachable[peer.subnet] = (route,)
        return Plan(peers=reachable, problems=problems)


BACKEND = HostGw

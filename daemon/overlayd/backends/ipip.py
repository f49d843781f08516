"""IP in IP (RFC 2003) by the kernel, as flannel lays it out: a bare IPv4 header in front, one device for all peers.

For each peer there is one route: to its subnet, with its public address as the gateway. The device makes that the
outer destination.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts, Carrier
from overlayd.backends.host_gw import DIRECT_ROUTING, direct_route, reaches_directly
from overlayd.backends.listening import Listening
from overlayd.backends.options import Options, largest_packet, require_families
from overlayd.backends.planned import Planned
from overlayd.kernel.converge import Plan
from overlayd.kernel.state import Address, IpipLink, KernelObject, Route
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.lib import marks
from overlayd.lib.addresses import interface
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Ipip(Planned):
    """The backend on one host. `direct` is DirectRouting: peers on the underlay's own networks get plain routes."""

    facts: ClassVar[BackendFacts] = BackendFacts(
        name="ipip",
        published_as="ipip",
        summary="IP in IP by the kernel. Crosses any IP network that lets IP protocol 4 through.",
        keys=(DIRECT_ROUTING,),
        ipv6=False,
        overhead_bytes={4: 20, 6: 40},
        carrier=Carrier(protocol="4"),
        device_kind="ipip",
        host_answers=True,
        one_route=False,
        runs_commands=False,
        notified=True,
    )
    environment: Environment
    direct: bool
    mtu_bytes: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Keys: DirectRouting."""
        direct = Options(cls.facts, config).flag("DirectRouting")
        require_families(cls.facts, environment.network)
        mtu_bytes = largest_packet(cls.facts, environment.underlay.mtu_bytes, 20)  # outer IPv4
        return cls(environment=environment, direct=direct, mtu_bytes=mtu_bytes)

    @property
    def devices(self) -> tuple[str, ...]:
        """The IP-in-IP device, and with DirectRouting the underlay's interface too."""
        return (_device(), self.environment.underlay.ifname) if self.direct else (_device(),)

    @property
    def listens(self) -> tuple[Listening, ...]:
        """IP protocol 4."""
        return (Listening(version=4, protocol="4"),)

    def lease_data(self, version: int) -> None:
        """Peers need to know nothing but the address."""

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """All that the kernel should hold, for these leases. Pure."""
        selected = self.environment.select_peers(peers, own=own, backend_type=self.facts.name)
        reachable: dict[str, tuple[KernelObject, ...]] = {}
        paths: dict[str, str] = {}
        for peer in selected.served:
            family_leases = self.environment.shared_family_leases(peer)
            reachable[peer.key_name] = tuple(map(self._way, family_leases))
            paths[peer.key_name] = "direct" if all(map(self._is_direct, family_leases)) else self.facts.name
        link = IpipLink(name=_device(), mtu_bytes=self.mtu_bytes, local=self.environment.endpoint(4).address)
        # A host's own packets to the overlay leave with this address, and no subnet route comes with a /32.
        addresses = [
            Address(link=_device(), address=interface(family_lease.subnet.network_address, 32))
            for family_lease in own.family_leases
        ]
        base = (*self.environment.base(own), link, *addresses)
        return self.environment.plan(
            selected,
            base=base,
            peers=reachable,
            paths=paths,
        )

    def _is_direct(self, family_lease: FamilyLease) -> bool:
        return self.direct and reaches_directly(self.environment, family_lease)

    def _way(self, family_lease: FamilyLease) -> Route:
        if self._is_direct(family_lease):
            return direct_route(self.environment, family_lease)
        return Route(dst=family_lease.subnet, link=_device(), via=family_lease.public_ip, onlink=True)


def _device() -> str:
    return marks.ours().device(".ipip")


BACKEND = Ipip

"""Plain routes: each peer's subnet through the peer itself. For hosts on one network segment; no encapsulation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts, Key
from overlayd.backends.peers import Reason
from overlayd.backends.planned import PlainPackets
from overlayd.backends.wire import Wire, WireFormat
from overlayd.errors import UnsupportedError
from overlayd.kernel.converge import Plan
from overlayd.kernel.state import Route
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.lib.quick_dataclass import dataclass

# Of those backends that can do without their encapsulation.
DIRECT_ROUTING = Key(
    name="DirectRouting", help="Plain routes to peers that the underlay reaches without a router.", default=False
)


@dataclass(frozen=True, kw_only=True)
class HostGw(PlainPackets):
    """The host-gw backend on one host."""

    facts: ClassVar[BackendFacts] = BackendFacts(
        name="host-gw",
        published_as="host-gw",
        summary="A plain route to each peer, no encapsulation. All hosts must be on one network segment, and "
        "`public-ip` must be the interface's own address.",
        keys=(),
        ipv6=True,
        overhead_bytes={4: 0, 6: 0},
        carrier=None,
        device_kind=None,
        host_answers=False,
        one_route=False,
        runs_commands=False,
        notified=True,
    )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Raises UnsupportedError where peers could not use this host as a next hop."""
        for endpoint in environment.underlay.endpoints:
            if endpoint.public_ip != endpoint.address:
                raise UnsupportedError(
                    f"backend host-gw: public-ip {endpoint.public_ip} is not the address of "
                    f"{environment.underlay.ifname} ({endpoint.address}), so no peer can route to it",
                    hint="leave public-ip out, or use backend vxlan or udp",
                )
        return super().from_config(config, environment)

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """All that the kernel should hold, for these leases. Pure."""
        selected = self.environment.select_peers(peers, own=own, backend_type=self.facts.name, usable=self._unreachable)
        return self.environment.plan(
            selected,
            base=self.environment.base(own),
            peers={
                peer.key_name: tuple(
                    direct_route(self.environment, family_lease)
                    for family_lease in self.environment.shared_family_leases(peer)
                )
                for peer in selected.served
            },
            paths={peer.key_name: "direct" for peer in selected.served},
        )

    def wire(self, version: int) -> Wire:  # noqa: ARG002 - the same for both
        """See Backend."""
        return Wire(
            format=WireFormat.DIRECT, device=self.environment.underlay.ifname, paths={"direct": WireFormat.DIRECT}
        )

    def _unreachable(self, peer: Lease) -> Reason | None:
        for family_lease in self.environment.shared_family_leases(peer):
            if not reaches_directly(self.environment, family_lease):
                return "{} is on no network of {}'s own; host-gw needs that, vxlan does not", (
                    family_lease.public_ip,
                    self.environment.underlay.ifname,
                )
        return None


def reaches_directly(environment: Environment, family_lease: FamilyLease) -> bool:
    """Whether a peer's address is on a network of the underlay's own."""
    return environment.endpoint(family_lease.version).reaches_directly(family_lease.public_ip)


def direct_route(environment: Environment, family_lease: FamilyLease) -> Route:
    """A plain route to a peer's subnet through the peer."""
    return Route(dst=family_lease.subnet, link=environment.underlay.ifname, via=family_lease.public_ip)


BACKEND = HostGw

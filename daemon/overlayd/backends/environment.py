"""What every backend knows of its host, and what every backend needs in the kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import field
from pathlib import Path

from overlayd.backends.allowed_commands import AllowedCommands
from overlayd.backends.peers import Reason, ServedPeers, select_peers
from overlayd.errors import NetworkConfigError
from overlayd.kernel.converge import Plan
from overlayd.kernel.foreign import Destination
from overlayd.kernel.state import FORWARDING, FORWARDING6, KernelObject, Route
from overlayd.leases.conflicts import OWN_ADDRESS, CurrentNeeds, HostNeed
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.addresses import ip_network
from overlayd.lib.quick_dataclass import dataclass
from overlayd.underlay.choose import Underlay, UnderlayEndpoint

# Any other route to the subnet wins over this one, above all that of the bridge.
LAST_METRIC = 2**31


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The network, and this host's place in it.

    `blackhole`: packets for the own subnet are dropped while no bridge carries it. `run_dir` holds files of this boot,
    `state_dir` what a backend keeps across reboots; None where a config is only checked. `allowed_commands` says which
    commands of the config this host runs; None where the config is not for this host. `here` is what this host needs.
    """

    network: NetworkConfig
    underlay: Underlay
    blackhole: bool = False
    run_dir: Path = Path("/run/overlayd")
    state_dir: Path | None = None
    here: CurrentNeeds = field(default_factory=CurrentNeeds)
    allowed_commands: AllowedCommands | None = None

    def __post_init__(self) -> None:
        """Raises NetworkConfigError where the network uses a family that the underlay has no address of."""
        for pool in self.network.pools:
            if self.underlay.endpoint(pool.network.version) is None:
                version, ifname = pool.network.version, self.underlay.ifname
                raise NetworkConfigError(
                    f"the network has IPv{version} addresses, {pool.network}, but this host's {ifname} has none"
                    f"{self.underlay.lacks(version)}",
                    hint=f"give {ifname} an IPv{version} address, or set EnableIPv{version} to false",
                )

    def endpoint(self, version: int) -> UnderlayEndpoint:
        """Where peers reach this host, in a family that the network uses."""
        found = self.underlay.endpoint(version)
        if found is None:
            raise RuntimeError(f"IPv{version} is not in use")
        return found

    def base(self, own: Lease) -> tuple[KernelObject, ...]:
        """What the kernel should hold with any backend: forwarding on, and the blackhole route if one is asked for."""
        forwarding = [FORWARDING if family_lease.version == 4 else FORWARDING6 for family_lease in own.family_leases]
        # Docker's bridge always has IPv4 too.
        objects: list[KernelObject] = [*{FORWARDING: None, **dict.fromkeys(forwarding)}]
        if self.blackhole:
            objects += [
                Route(dst=family_lease.subnet, link=None, metric=LAST_METRIC) for family_lease in own.family_leases
            ]
        return tuple(objects)

    def select_peers(
        self,
        peers: Collection[Lease],
        *,
        own: Lease,
        backend_type: str,
        one_route: bool = False,
        usable: Callable[[Lease], Reason | None] = lambda _lease: None,
    ) -> ServedPeers:
        """Which leases are served, and why the others are not (peers.select_peers)."""
        return select_peers(
            peers,
            own=own,
            network=self.network,
            backend_type=backend_type,
            needed=(*self._underlay_needs(), *self.here.needed),
            one_route=one_route,
            usable=usable,
        )

    def _underlay_needs(self) -> Iterable[HostNeed]:
        """The underlay's addresses and networks, which count also where `here` is empty."""
        for endpoint in self.underlay.endpoints:
            address = ip_network(endpoint.address)
            yield HostNeed(network=address, what=OWN_ADDRESS, ifname=self.underlay.ifname)
            for network in endpoint.on_link:
                yield HostNeed(network=network, what=f"{self.underlay.ifname}'s network", ifname=self.underlay.ifname)

    def shared_family_leases(self, peer: Lease) -> tuple[FamilyLease, ...]:
        """The leases of a peer in the families that the network uses."""
        return tuple(
            family_lease
            for family_lease in peer.family_leases
            if self.network.network(family_lease.version) is not None
        )

    def plan(
        self,
        selected: ServedPeers,
        *,
        base: tuple[KernelObject, ...],
        peers: Mapping[str, tuple[KernelObject, ...]],
        paths: Mapping[str, str],
    ) -> Plan:
        """The plan for selected peers: `base` is what the kernel needs for all, `peers` and `paths` for each."""
        return Plan(
            base=base,
            peers=peers,
            problems=selected.problems,
            paths=paths,
            destinations=self.destinations(selected.served),
            networks=self.network.networks,
            unlisted=selected.unlisted,
        )

    def destinations(self, peers: Iterable[Lease]) -> dict[str, tuple[Destination, ...]]:
        """The subnets and addresses of each peer, by the name of its lease, in the families that the network uses."""
        return {
            peer.key_name: tuple(
                Destination(subnet=family_lease.subnet, public_ip=family_lease.public_ip)
                for family_lease in self.shared_family_leases(peer)
            )
            for peer in peers
        }

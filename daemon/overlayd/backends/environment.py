"""What every backend is told of its host, and what every backend needs in the kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from overlayd.backends.allowed_commands import Consent
from overlayd.backends.peers import Judged, Reason, judge
from overlayd.errors import NetworkConfigError
from overlayd.kernel.foreign import Destination
from overlayd.kernel.state import FORWARDING, FORWARDING6, KernelObject, Route
from overlayd.leases.conflicts import OWN_ADDRESS, CurrentNeeds, HostNeed
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.addresses import ip_network
from overlayd.underlay.choose import Underlay, UnderlayEndpoint

# Behind every other route to the subnet, the bridge's own above all.
LAST_METRIC = 2**31


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The network, and this host's place in it.

    `blackhole`: the own subnet goes nowhere while no bridge carries it. `run_dir` holds files of this boot, `state_dir`
    what a backend keeps across reboots; None where a config is only checked. `consent` is this host's to the commands
    of the config; None where the config is not for this host. `here` is what this host needs.
    """

    network: NetworkConfig
    underlay: Underlay
    blackhole: bool = False
    run_dir: Path = Path("/run/overlayd")
    state_dir: Path | None = None
    here: CurrentNeeds = field(default_factory=CurrentNeeds)
    consent: Consent | None = None

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
        """What the kernel should hold whatever the backend: forwarding on, and the blackhole if it is wanted."""
        forwarding = [FORWARDING if family_lease.version == 4 else FORWARDING6 for family_lease in own.family_leases]
        # Docker's bridge always has IPv4 too.
        objects: list[KernelObject] = [*{FORWARDING: None, **dict.fromkeys(forwarding)}]
        if self.blackhole:
            objects += [
                Route(dst=family_lease.subnet, link=None, metric=LAST_METRIC) for family_lease in own.family_leases
            ]
        return tuple(objects)

    def judge(
        self,
        peers: Collection[Lease],
        *,
        own: Lease,
        backend_type: str,
        one_route: bool = False,
        usable: Callable[[Lease], Reason | None] = lambda _lease: None,
    ) -> Judged:
        """Which leases are served, and why not the others (peers.judge)."""
        return judge(
            peers,
            own=own,
            network=self.network,
            backend_type=backend_type,
            needed=(*self._underlay_needs(), *self.here.needed),
            one_route=one_route,
            usable=usable,
        )

    def _underlay_needs(self) -> Iterable[HostNeed]:
        """The underlay's own part, also where nobody looked at the host."""
        for endpoint in self.underlay.endpoints:
            address = ip_network(endpoint.address)
            yield HostNeed(network=address, what=OWN_ADDRESS, ifname=self.underlay.ifname)
            for network in endpoint.on_link:
                yield HostNeed(network=network, what=f"{self.underlay.ifname}'s network", ifname=self.underlay.ifname)

    def shared_legs(self, peer: Lease) -> tuple[FamilyLease, ...]:
        """The legs of a peer in families that the network uses."""
        return tuple(
            family_lease
            for family_lease in peer.family_leases
            if self.network.network(family_lease.version) is not None
        )

    def destinations(self, peers: Iterable[Lease]) -> dict[str, tuple[Destination, ...]]:
        """What is reached at each peer, in families that the network uses."""
        return {
            peer.key_name: tuple(
                Destination(subnet=family_lease.subnet, public_ip=family_lease.public_ip)
                for family_lease in self.shared_legs(peer)
            )
            for peer in peers
        }

"""Which leases a backend serves, why it refuses the others, and the look-ups of peers for each packet. Pure.

A reason that concerns one lease alone goes into `_Family.unfit` (one IP version) or `_LeaseRules.refusal`; one that
depends on leases served before goes into `Together.refusal`; one that a single backend has goes into its `usable`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import field
from heapq import nsmallest
from ipaddress import IPv4Network, ip_network
from operator import attrgetter
from typing import NamedTuple

from overlayd.backends.ranges import Index
from overlayd.leases.conflicts import OWN_ADDRESS, HostNeed, taken_by
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import NetworkConfig, Pool
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import sanitized

# Each peer is up to three objects in the kernel, and each round reads all. The largest known clusters have 5,000 hosts.
PEERS_AT_MOST = 8192
# A host holds one lease, and after a change of the network the old one too. The forwarder of backend udp compares every
# packet from a host with each of its leases.
LEASES_OF_A_HOST_AT_MOST = 16
# Of a thousand bad leases, this many have their problem in status and log; the others are counted.
PROBLEMS_AT_MOST = 100
# Addresses that no host has: RFC 1122, RFC 4291.
_NO_HOSTS: tuple[IPNetwork, ...] = tuple(
    map(
        ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/80", "fe80::/10", "ff00::/8"),
    )
)

# Why a lease is not served: a format string and its values. Most are never formatted, as there may be very many.
Reason = tuple[str, tuple[object, ...]]


@dataclass(frozen=True)
class Quoted:
    """A value that another host wrote, quoted when it is put into a message."""

    value: object

    def __str__(self) -> str:
        return sanitized(self.value)


@dataclass(frozen=True, kw_only=True)
class ServedPeers:
    """Which of the leases are served, in an order independent of that of the input, and why the others are not.

    `problems` are by the last part of a lease's key; `unlisted` counts further leases that are not served.
    """

    served: tuple[Lease, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    unlisted: int = 0


def select_peers(
    peers: Collection[Lease],
    *,
    own: Lease,
    network: NetworkConfig,
    backend_type: str,
    needed: Collection[HostNeed] = (),
    one_route: bool = False,
    usable: Callable[[Lease], Reason | None] = lambda _lease: None,
) -> ServedPeers:
    """Choose the leases to serve. Other hosts write them, and there may be a hundred thousand.

    A lease is not served if its subnet overlaps what this host needs, or if no host can have its public address. Of two
    that overlap, one that fits the network config is served before one that does not, then the older one: a new lease
    takes nothing from an old one. `usable` returns why the backend cannot use a lease that is good otherwise.
    """
    rules, already_served = _LeaseRules(own, network, backend_type, needed, one_route=one_route), Together(network)
    # Leases only, no tuples of them: a hundred thousand new objects would start Python's garbage collector.
    candidates: list[Lease] = []
    refused: list[Lease] = []
    for peer in peers:
        (candidates if rules.refusal(peer) is None else refused).append(peer)
    rules.sort(candidates)
    served: list[Lease] = []
    for number, peer in enumerate(candidates):
        if len(served) == PEERS_AT_MOST:
            too_many = candidates[number:]
            break
        if (already_served.refusal(peer) or usable(peer)) is None:
            already_served.add(peer)
            served.append(peer)
        else:
            refused.append(peer)
    else:
        too_many = []
    reported = nsmallest(PROBLEMS_AT_MOST, refused, key=_name) if len(refused) > PROBLEMS_AT_MOST else refused
    problems = {}
    for peer in reported:
        text, values = rules.refusal(peer) or already_served.refusal(peer) or usable(peer) or ("{}", ("not served",))
        problems[peer.key_name] = text.format(*values)
    for peer in too_many[: PROBLEMS_AT_MOST - len(reported)]:
        problems[peer.key_name] = f"the network has more than {PEERS_AT_MOST} leases, and it is not among the first"
    return ServedPeers(served=tuple(served), problems=problems, unlisted=len(refused) + len(too_many) - len(problems))


_name, _age = attrgetter("key_name"), attrgetter("created")


class _LeaseRules:
    """The rules for a lease by itself, whatever others there are. They compare integers, as there may be very many."""

    def __init__(
        self, own: Lease, network: NetworkConfig, backend_type: str, needed: Collection[HostNeed], *, one_route: bool
    ) -> None:
        self._network = network
        self._backend_type = backend_type
        self._families: dict[int, _Family] = {
            pool.network.version: _Family(
                pool,
                own,
                tuple(one for one in needed if one.network.version == pool.network.version),
                one_route=one_route,
            )
            for pool in network.pools
        }

    def sort(self, peers: list[Lease]) -> None:
        """Sort leases that fit the network config before those left of another config, then older before younger."""
        for key in (_name, _age, self._is_left_over):
            peers.sort(key=key)

    def _is_left_over(self, peer: Lease) -> bool:
        families = self._families
        for family_lease in peer.family_leases:
            if family_lease.version in families and not families[family_lease.version].fits(family_lease):
                return True
        return False

    def refusal(self, peer: Lease) -> Reason | None:
        """Why a lease is not served."""
        if peer.backend_type != self._backend_type:
            return "its backend is {}, ours is {}", (peer.backend_type, self._backend_type)
        reason: Reason | None = "it has no address of the network's {}", (self._network,)
        for family_lease in peer.family_leases:
            family = self._families.get(family_lease.version)
            if family is not None:
                reason = family.unfit(family_lease)
                if reason is not None:
                    return reason
        return reason


class _Family:
    """The rules of one IP version. A public address has the same version as its subnet."""

    def __init__(self, pool: Pool, own: Lease, needed: Collection[HostNeed], *, one_route: bool) -> None:
        version = pool.network.version
        self._network = pool.network
        self._first, self._last = _span(pool.network)
        self._subnet_len = pool.subnet_len
        self._lowest, self._highest = int(pool.subnet_min), int(pool.subnet_max)
        self._longest = pool.network.max_prefixlen - 2
        self._own = own
        ours = own.family_lease(version)
        self._ours = ours.span if ours is not None else (0, -1)
        self._needed = needed
        self._taken = Index(_span(one.network) for one in needed)
        self._no_hosts = Index(_span(one) for one in _NO_HOSTS if one.version == version)
        lans = [one for one in needed if one.ifname is not None and not one.is_address]
        self._edges = {edge: one for one in lans for edge in _edges(one.network)}
        self._own_numbers = {int(one.network.network_address) for one in needed if one.what == OWN_ADDRESS}
        self._own_numbers |= {ours.public_number} if ours is not None else set()
        self._one_route = one_route
        self._lans = Index(_span(one.network) for one in lans)

    def fits(self, family_lease: FamilyLease) -> bool:
        """Whether it could be leased now."""
        return (
            family_lease.subnet.prefixlen == self._subnet_len and self._lowest <= family_lease.span[0] <= self._highest
        )

    def unfit(self, family_lease: FamilyLease) -> Reason | None:
        """Why no host may have that subnet, or none can have that public address; None: it is fit."""
        first, last = family_lease.span
        if not (self._first <= first and last <= self._last):
            return "its subnet {} is outside the network {}", (family_lease.subnet, self._network)
        if family_lease.subnet.prefixlen > self._longest:
            return "its subnet {} is too small to be leased", (family_lease.subnet,)
        if first <= self._ours[1] and last >= self._ours[0]:
            return "its subnet {} overlaps ours, {}", (family_lease.subnet, self._own.subnets)
        if self._taken.overlap(first, last) is not None:
            return "its subnet {} {}", (family_lease.subnet, _Overlapped(family_lease.subnet, self._needed))
        what = self._not_a_host(family_lease.public_number, family_lease)
        return None if what is None else ("its public address {} is {}", (family_lease.public_ip, what))

    def _not_a_host(self, number: int, family_lease: FamilyLease) -> str | None:
        """What an address is, where it cannot be a peer's; None where it can."""
        if number in self._own_numbers:
            return OWN_ADDRESS.removesuffix(" address")
        if self._no_hosts.overlap(number, number) is not None:
            return "not one of a host"
        if number in self._edges:
            return f"not one of a host: it is an end of {self._edges[number]}"
        return self._inside(number, family_lease) if self._first <= number <= self._last else None

    def _inside(self, number: int, family_lease: FamilyLease) -> str | None:
        """Why an address inside the network cannot be a peer's. Some can: the underlay may be a part of the network."""
        if self._ours[0] <= number <= self._ours[1]:
            return "inside our subnet"
        if family_lease.span[0] <= number <= family_lease.span[1]:
            return "inside its own subnet"
        if self._one_route and self._lans.overlap(number, number) is None:
            # Packets to it would be routed into the overlay, encapsulated for it, and routed there again.
            return f"inside the network {self._network}, which is routed into the overlay"
        return None


class _Overlapped(NamedTuple):
    """What this host needs and a subnet overlaps, formatted when it is put into a message."""

    subnet: IPNetwork
    needed: Collection[HostNeed]

    def __str__(self) -> str:
        return str(taken_by(self.subnet, self.needed))


class Together:
    """Leases that are served together, in the families that the network uses."""

    def __init__(self, network: NetworkConfig) -> None:
        """None yet."""
        self._subnets = {version: Index() for version in network.versions}
        self._addresses = {version: Index() for version in network.versions}
        self._family_leases: dict[tuple[int, int], FamilyLease] = {}
        self._leases: dict[tuple[int, int], int] = {}

    def refusal(self, peer: Lease) -> Reason | None:
        """Why a lease cannot be served together with these; None: it can."""
        for family_lease in peer.family_leases:
            version, (first, last), number = family_lease.version, family_lease.span, family_lease.public_number
            subnets = self._subnets.get(version)
            if subnets is None:
                continue
            if (at := subnets.overlap(first, last)) is not None:
                other = self._family_leases[version, at]
                if other.span == family_lease.span:
                    return "its subnet {} is also that of {}", (family_lease.subnet, other.public_ip)
                return "its subnet {} overlaps {} of {}", (family_lease.subnet, other.subnet, other.public_ip)
            if (at := subnets.overlap(number, number)) is not None:
                other = self._family_leases[version, at]
                return "its public address {} is inside {} of {}", (
                    family_lease.public_ip,
                    other.subnet,
                    other.public_ip,
                )
            if (at := self._addresses[version].overlap(first, last)) is not None:
                public_ip = family_lease.subnet.network_address + (at - first)
                return "its subnet {} holds {}, the public address of another", (family_lease.subnet, public_ip)
            if self._leases.get((version, number), 0) >= LEASES_OF_A_HOST_AT_MOST:
                return "{} has more than {} leases", (family_lease.public_ip, LEASES_OF_A_HOST_AT_MOST)
        return None

    def add(self, peer: Lease) -> None:
        """Add a lease to those that are served."""
        for family_lease in peer.family_leases:
            version, number = family_lease.version, family_lease.public_number
            if version in self._subnets:
                self._subnets[version].add(*family_lease.span)
                self._family_leases[version, family_lease.span[0]] = family_lease
                count = self._leases.get((version, number), 0)
                self._leases[version, number] = count + 1
                if not count:
                    self._addresses[version].add(number, number)

    def remove(self, peer: Lease) -> bool:
        """Remove a lease that was added, if its host has no other; whether it had none."""
        parts = [one for one in peer.family_leases if one.version in self._subnets]
        if any(self._leases[one.version, one.public_number] > 1 for one in parts):
            return False
        for one in parts:
            version, number = one.version, one.public_number
            self._subnets[version].remove(*one.span)
            self._addresses[version].remove(number, number)
            del self._family_leases[version, one.span[0]], self._leases[version, number]
        return True


def _span(network: IPNetwork) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def _edges(network: IPNetwork) -> tuple[int, ...]:
    """Addresses of a network that no host has: its own, and with IPv4 the broadcast address."""
    if network.max_prefixlen - network.prefixlen < 2:
        return ()
    return _span(network)[: 2 if network.version == 4 else 1]


class PeerTable:
    """Peers by subnet for packets that leave, and by address for packets that arrive. Immutable."""

    def __init__(self, peers: Collection[Lease], port: int) -> None:
        """A table of these peers' IPv4 leases, each reached at UDP `port`."""
        self._by_length: dict[int, dict[int, tuple[str, int]]] = {}
        sources: dict[str, list[tuple[int, int]]] = {}
        for peer in peers:
            if peer.v4 is None or not isinstance(peer.v4.subnet, IPv4Network):
                continue
            shift = 32 - peer.v4.subnet.prefixlen
            base = int(peer.v4.subnet.network_address) >> shift
            address = str(peer.v4.public_ip)
            self._by_length.setdefault(shift, {})[base] = (address, port)
            sources.setdefault(address, []).append((shift, base))
        self._sources = {address: tuple(found) for address, found in sources.items()}
        # The longest prefix first, as a routing table has it; in most networks there is one length.
        self._tables = sorted(self._by_length.items())

    def find_host(self, destination: int) -> tuple[str, int] | None:
        """Address and port of the host that holds the subnet of an inner destination."""
        for shift, table in self._tables:
            found = table.get(destination >> shift)
            if found is not None:
                return found
        return None

    def sources(self, sender: str) -> tuple[tuple[int, int], ...] | None:
        """Which inner sources a host may send from, as pairs of shift and base; None if it holds no lease.

        An address `source` is allowed where `source >> shift == base`.
        """
        return self._sources.get(sender)

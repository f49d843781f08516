"""Peers as a backend sees them: which leases can be served at all, and the look-ups that a packet needs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from heapq import nsmallest
from ipaddress import IPv4Network, ip_network

from overlayd.addresses import IPAddress, IPNetwork
from overlayd.backends.spans import Index
from overlayd.bounds import OWN_ADDRESS, Needed, taken_by
from overlayd.lease import Lease, Leg
from overlayd.network import NetworkConfig, Pool
from overlayd.quoting import quoted

# Each is three things in the kernel, and each round looks at all. The largest clusters known end at 5,000 hosts.
PEERS_AT_MOST = 8192
# A host holds one lease; after a change of the network there is the old one too. The forwarder of backend udp looks at
# each for every packet from that host.
LEASES_OF_A_HOST_AT_MOST = 16
# Whoever has a thousand bad leases in etcd does not read a thousand lines.
TOLD_AT_MOST = 100
# Where no host is: RFC 1122, RFC 4291.
_NO_HOSTS: tuple[IPNetwork, ...] = tuple(
    map(
        ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/80", "fe80::/10", "ff00::/8"),
    )
)

# Why a lease is not served: a text with places for what stands beside it. Most are never put together.
Reason = tuple[str, tuple[object, ...]]


@dataclass(frozen=True)
class Quoted:
    """What another host wrote, to be quoted where somebody is told of it."""

    value: object

    def __str__(self) -> str:
        return quoted(self.value)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Which of the leases are served, in an order that does not depend on how they came; and of the others, why not.

    `problems` are told by the last part of a lease's key; `untold` more are not served either.
    """

    served: tuple[Lease, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    untold: int = 0


def judge(
    peers: Collection[Lease],
    *,
    own: Lease,
    network: NetworkConfig,
    backend_type: str,
    needed: Collection[Needed] = (),
    one_route: bool = False,
    usable: Callable[[Lease], Reason | None] = lambda _lease: None,
) -> Judged:
    """Choose. Leases are written by others, and there may be a hundred thousand.

    One that would take anything of this host's own is not served, nor one that says that its host is where none can be.
    Of two that overlap, the one that could be leased now is served, then the older one; so whoever comes later takes
    nothing from anybody. `usable` says what the backend lacks in a lease that is fit otherwise.
    """
    rules = _Rules(own, network, backend_type, needed, one_route=one_route)
    refused: list[tuple[Lease, Reason]] = []
    candidates: list[Lease] = []
    for peer in peers:
        reason = rules.refusal(peer)
        if reason is None:
            candidates.append(peer)
        else:
            refused.append((peer, reason))
    candidates.sort(key=rules.rank)
    served: list[Lease] = []
    there = _Served(network)
    for number, peer in enumerate(candidates):
        if len(served) == PEERS_AT_MOST:
            too_many: Reason = ("the network has more than {} leases, and it is not among the first", (PEERS_AT_MOST,))
            refused.extend((one, too_many) for one in candidates[number:])
            break
        reason = there.refusal(peer) or usable(peer)
        if reason is None:
            there.add(peer)
            served.append(peer)
        else:
            refused.append((peer, reason))
    told = refused
    if len(refused) > TOLD_AT_MOST:
        told = nsmallest(TOLD_AT_MOST, refused, key=lambda one: one[0].key_name)
    problems = {peer.key_name: text.format(*values) for peer, (text, values) in told}
    return Judged(served=tuple(served), problems=problems, untold=len(refused) - len(told))


class _Rules:
    """What a lease must be for itself, whatever others there are. By numbers, as there may be very many."""

    def __init__(
        self, own: Lease, network: NetworkConfig, backend_type: str, needed: Collection[Needed], *, one_route: bool
    ) -> None:
        self._own = own
        self._network = network
        self._backend_type = backend_type
        self._needed = needed
        self._pools: dict[int, _Span] = {pool.network.version: _Span(pool) for pool in network.pools}
        self._ours = {leg.version: leg.span for leg in own.legs}
        versions = (4, 6)
        self._taken = {v: Index(_span(one.network) for one in needed if one.network.version == v) for v in versions}
        self._no_hosts = {v: Index(_span(one) for one in _NO_HOSTS if one.version == v) for v in versions}
        lans = [one for one in needed if one.ifname is not None and not one.is_address]
        self._lans = {v: Index(_span(one.network) for one in lans if one.network.version == v) for v in versions}
        self._one_route = one_route
        self._own_addresses = {leg.public_ip for leg in own.legs} | {
            one.network.network_address for one in needed if one.is_address and one.what == OWN_ADDRESS
        }
        self._edges = {edge: one for one in lans for edge in _edges(one.network)}

    def rank(self, peer: Lease) -> tuple[bool, int, str]:
        """What could be leased now before what is left of another config, the older before the younger."""
        return not all(self._could_be_leased(leg) for leg in peer.legs), peer.created, peer.key_name

    def refusal(self, peer: Lease) -> Reason | None:
        """Why a lease is not served."""
        if peer.backend_type != self._backend_type:
            return "its backend is {}, ours is {}", (peer.backend_type, self._backend_type)
        reason: Reason | None = "it has no address of the network's {}", (self._network,)
        for leg in peer.legs:
            if leg.version in self._pools:
                reason = self._unfit(leg)
                if reason is not None:
                    return reason
        return reason

    def _could_be_leased(self, leg: Leg) -> bool:
        pool = self._pools.get(leg.version)
        return pool is None or (leg.subnet.prefixlen == pool.subnet_len and pool.lowest <= leg.span[0] <= pool.highest)

    def _unfit(self, leg: Leg) -> Reason | None:
        first, last = leg.span
        pool = self._pools[leg.version]
        if not (pool.first <= first and last <= pool.last):
            return "its subnet {} is outside the network {}", (leg.subnet, pool.network)
        if leg.subnet.max_prefixlen - leg.subnet.prefixlen < 2:
            return "its subnet {} is too small to be leased", (leg.subnet,)
        ours = self._ours.get(leg.version)
        if ours is not None and first <= ours[1] and last >= ours[0]:
            return "its subnet {} overlaps ours, {}", (leg.subnet, self._own.subnets)
        if self._taken[leg.version].overlap(first, last) is not None:
            return "its subnet {} {}", (leg.subnet, _Taken(leg.subnet, self._needed))
        return self._misplaced(leg)

    def _misplaced(self, leg: Leg) -> Reason | None:
        """Why no host can be at the public address of a lease."""
        address, number, version = leg.public_ip, int(leg.public_ip), leg.public_ip.version
        if address in self._own_addresses:
            return "its public address {} is this host's own", (address,)
        if self._no_hosts[version].overlap(number, number) is not None:
            return "its public address {} is not one of a host", (address,)
        if address in self._edges:
            return "its public address {} is not one of a host: it is an end of {}", (address, self._edges[address])
        if _within(number, self._ours.get(version)):
            return "its public address {} is inside our subnet", (address,)
        if leg.version == version and _within(number, leg.span):
            return "its public address {} is inside its own subnet", (address,)
        return self._lost_in_the_overlay(leg)

    def _lost_in_the_overlay(self, leg: Leg) -> Reason | None:
        """Where one route leads the whole network into the overlay, packets to a host in it would go in circles."""
        number, version = int(leg.public_ip), leg.public_ip.version
        pool = self._pools.get(version)
        inside = self._one_route and pool is not None and pool.first <= number <= pool.last
        if pool is None or not inside or self._lans[version].overlap(number, number) is not None:
            return None
        return "its public address {} is inside the network {}, which is routed into the overlay", (
            leg.public_ip,
            pool.network,
        )


@dataclass(frozen=True)
class _Taken:
    """What a subnet would take from this host; put into words where somebody is told."""

    subnet: IPNetwork
    needed: Collection[Needed]

    def __str__(self) -> str:
        return str(taken_by(self.subnet, self.needed))


class _Span:
    """A pool in numbers."""

    def __init__(self, pool: Pool) -> None:
        self.network = pool.network
        self.first, self.last = _span(pool.network)
        self.subnet_len = pool.subnet_len
        self.lowest, self.highest = int(pool.subnet_min), int(pool.subnet_max)


class _Served:
    """What is served already, in the families that the network uses."""

    def __init__(self, network: NetworkConfig) -> None:
        self._subnets = {version: Index() for version in network.versions}
        self._addresses = {version: Index() for version in (4, 6)}
        self._legs: dict[tuple[int, int], Leg] = {}
        self._leases: dict[IPAddress, int] = {}

    def refusal(self, peer: Lease) -> Reason | None:
        """Why a lease cannot be served beside these."""
        for leg in peer.legs:
            subnets = self._subnets.get(leg.version)
            if subnets is None:
                continue
            version, number = leg.public_ip.version, int(leg.public_ip)
            if (at := subnets.overlap(*leg.span)) is not None:
                other = self._legs[leg.version, at]
                if other.subnet == leg.subnet:
                    return "its subnet {} is also that of {}", (leg.subnet, other.public_ip)
                return "its subnet {} overlaps {} of {}", (leg.subnet, other.subnet, other.public_ip)
            around = self._subnets.get(version)
            if around is not None and (at := around.overlap(number, number)) is not None:
                other = self._legs[version, at]
                return "its public address {} is inside {} of {}", (leg.public_ip, other.subnet, other.public_ip)
            if (at := self._addresses[leg.version].overlap(*leg.span)) is not None:
                return "its subnet {} holds {}, the public address of another", (
                    leg.subnet,
                    leg.subnet.network_address + (at - leg.span[0]),
                )
            if self._leases.get(leg.public_ip, 0) >= LEASES_OF_A_HOST_AT_MOST:
                return "{} has more than {} leases", (leg.public_ip, LEASES_OF_A_HOST_AT_MOST)
        return None

    def add(self, peer: Lease) -> None:
        """Count a lease among them."""
        for leg in peer.legs:
            subnets = self._subnets.get(leg.version)
            if subnets is None:
                continue
            subnets.add(*leg.span)
            self._legs[leg.version, leg.span[0]] = leg
            count = self._leases.get(leg.public_ip, 0)
            self._leases[leg.public_ip] = count + 1
            if not count:
                number = int(leg.public_ip)
                self._addresses[leg.public_ip.version].add(number, number)


def _within(number: int, span: tuple[int, int] | None) -> bool:
    return span is not None and span[0] <= number <= span[1]


def _span(network: IPNetwork) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def _edges(network: IPNetwork) -> tuple[IPAddress, ...]:
    """Addresses of a network that no host has: its own, and with IPv4 the broadcast address."""
    if network.max_prefixlen - network.prefixlen < 2:
        return ()
    return (network.network_address, network.broadcast_address)[: 2 if network.version == 4 else 1]


class PeerTable:
    """Peers by subnet for the way out, and by address for the way in. Never changed once made."""

    def __init__(self, peers: Collection[Lease], port: int) -> None:
        """A table of these peers' IPv4 legs, each reached at `port`."""
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

    def way_out(self, destination: int) -> tuple[str, int] | None:
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

"""Peers as a backend sees them: which leases can be served at all, and the look-ups that a packet needs. Pure."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network

from overlayd.addresses import IPAddress, IPNetwork, contains, is_within, overlaps
from overlayd.lease import Lease, Leg
from overlayd.network import NetworkConfig


def refusals(
    peers: Collection[Lease],
    *,
    own: Lease,
    network: NetworkConfig,
    backend_type: str,
    here: Collection[IPAddress] = (),
) -> dict[str, str]:
    """For each lease that must not be served, named by its key, why. Leases are written by others.

    One outside the network would take away this host's own routes, its default route even; one that overlaps the own
    subnet would take away its containers; and one that holds an address of the underlay, of which `here` are this
    host's, would cut it off. Of two that want the same, the first by key is served, whatever order they come in.
    """
    found = {}
    served: dict[tuple[int, int], Leg] = {}
    for peer in in_order(peers):
        problem = _refusal(peer, own, network, backend_type, here) or _rivalry(peer, network, served)
        if problem is not None:
            found[peer.key_name] = problem
    return found


def in_order(peers: Collection[Lease]) -> list[Lease]:
    """The leases by key: what depends on which comes first is then the same every time."""
    return sorted(peers, key=lambda peer: peer.key_name)


def _refusal(
    peer: Lease, own: Lease, network: NetworkConfig, backend_type: str, here: Collection[IPAddress]
) -> str | None:
    if peer.backend_type != backend_type:
        return f"its backend is {peer.backend_type}, ours is {backend_type}"
    if not _shared(peer, network):
        return f"it has no address of the network's {network}"
    problems = (_unfit(leg, own, network.network(leg.version), here) for leg in _shared(peer, network))
    return next((problem for problem in problems if problem is not None), None)


def _unfit(leg: Leg, own: Lease, within: IPNetwork | None, here: Collection[IPAddress]) -> str | None:
    if within is None or not is_within(leg.subnet, within):
        return f"its subnet {leg.subnet} is outside the network {within}"
    if any(overlaps(leg.subnet, ours) for ours in own.subnets):
        return f"its subnet {leg.subnet} overlaps ours, {own.subnets}"
    for address in here:
        if contains(leg.subnet, address):
            return f"its subnet {leg.subnet} holds this host's own address {address}"
    if leg.public_ip in (*here, *(ours.public_ip for ours in own.legs)):
        return f"its public address {leg.public_ip} is this host's own"
    return None if _is_unicast(leg) else f"its public address {leg.public_ip} is not one of a host"


def _rivalry(peer: Lease, network: NetworkConfig, served: dict[tuple[int, int], Leg]) -> str | None:
    """Whose subnet begins at the same address; None, and all noted in `served`, if nobody's does.

    Routes are told apart by their subnet, and VXLAN's neighbours by its first address: two would replace each other for
    ever.
    """
    legs = {(leg.version, int(leg.subnet.network_address)): leg for leg in _shared(peer, network)}
    for key, leg in legs.items():
        other = served.get(key, leg)
        if other != leg:
            same = "is also" if other.subnet == leg.subnet else f"begins with {other.subnet},"
            return f"its subnet {leg.subnet} {same} that of {other.public_ip}"
    served.update(legs)
    return None


def _shared(peer: Lease, network: NetworkConfig) -> list[Leg]:
    return [leg for leg in peer.legs if network.network(leg.version) is not None]


class PeerTable:
    """Peers by subnet for the way out, and by address for the way in. Never changed once made."""

    def __init__(self, peers: Collection[Lease], port: int) -> None:
        """A table of these peers' IPv4 legs, each reached at `port`."""
        self._by_length: dict[int, dict[int, tuple[str, int]]] = {}
        self._sources: dict[str, tuple[tuple[int, int], ...]] = {}
        for peer in peers:
            if peer.v4 is None or not isinstance(peer.v4.subnet, IPv4Network):
                continue
            shift = 32 - peer.v4.subnet.prefixlen
            base = int(peer.v4.subnet.network_address) >> shift
            address = str(peer.v4.public_ip)
            self._by_length.setdefault(shift, {})[base] = (address, port)
            self._sources[address] = (*self._sources.get(address, ()), (shift, base))
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


def _is_unicast(leg: Leg) -> bool:
    address = leg.public_ip
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or (address.version == 4 and address.is_reserved)
        or (address.version == 6 and address.is_link_local)
    )

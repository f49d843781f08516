"""Peers as a backend sees them: which leases can be served at all, and the look-ups that a packet needs. Pure."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network

from overlayd.addresses import is_within, overlaps
from overlayd.lease import Lease, Leg
from overlayd.network import NetworkConfig


def refusals(peers: Collection[Lease], *, own: Lease, network: NetworkConfig, backend_type: str) -> dict[str, str]:
    """For each lease that must not be served, named by its key, why. Leases are written by others.

    One outside the network would take away this host's own routes, its default route even; one that overlaps the own
    subnet would take away its containers.
    """
    found = {}
    for peer in peers:
        problem = _refusal(peer, own, network, backend_type)
        if problem is not None:
            found[peer.key_name] = problem
    return found


def _refusal(peer: Lease, own: Lease, network: NetworkConfig, backend_type: str) -> str | None:
    if peer.backend_type != backend_type:
        return f"its backend is {peer.backend_type}, ours is {backend_type}"
    legs = [(leg, within) for leg in peer.legs if (within := network.network(leg.version)) is not None]
    if not legs:
        return f"it has no address of the network's {network}"
    for leg, within in legs:
        if not is_within(leg.subnet, within):
            return f"its subnet {leg.subnet} is outside the network {within}"
        if any(overlaps(leg.subnet, ours) for ours in own.subnets):
            return f"its subnet {leg.subnet} overlaps ours, {own.subnets}"
        if not _is_unicast(leg):
            return f"its public address {leg.public_ip} is not one of a host"
    return None


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

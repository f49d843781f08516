"""Peers as a backend sees them: which leases can be served at all, and the look-ups that a packet needs. Pure."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network

from overlayd.lease import Lease


def refusals(
    peers: Collection[Lease], *, own: Lease, network: IPv4Network, backend_type: str
) -> dict[IPv4Network, str]:
    """For the subnet of each lease that must not be served, why. Leases are written by others.

    One outside the network would take away this host's own routes, its default route even; one that overlaps the own
    subnet would take away its containers.
    """
    found = {}
    for peer in peers:
        if peer.backend_type != backend_type:
            found[peer.subnet] = f"its backend is {peer.backend_type}, ours is {backend_type}"
        elif not peer.subnet.subnet_of(network):
            found[peer.subnet] = f"its subnet is outside the network {network}"
        elif peer.subnet.overlaps(own.subnet):
            found[peer.subnet] = f"its subnet overlaps ours, {own.subnet}"
        elif not _is_unicast(peer):
            found[peer.subnet] = f"its public address {peer.public_ip} is not one of a host"
    return found


class PeerTable:
    """Peers by subnet for the way out, and by address for the way in. Never changed once made."""

    def __init__(self, peers: Collection[Lease], port: int) -> None:
        """A table of these peers, each reached at `port`."""
        self._by_length: dict[int, dict[int, tuple[str, int]]] = {}
        self._sources: dict[str, tuple[tuple[int, int], ...]] = {}
        for peer in peers:
            shift = 32 - peer.subnet.prefixlen
            base = int(peer.subnet.network_address) >> shift
            address = str(peer.public_ip)
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


def _is_unicast(peer: Lease) -> bool:
    address = peer.public_ip
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or address.is_reserved)

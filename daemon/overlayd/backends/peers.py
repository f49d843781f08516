"""Who may send what to whom: the look-ups that a packet needs on its way, made once for a set of leases. Pure."""

from __future__ import annotations

from collections.abc import Collection

from overlayd.lease import Lease


class PeerTable:
    """Peers by subnet for the way out, and by address for the way in. Never changed once made."""

    def __init__(self, peers: Collection[Lease], port: int) -> None:
        """A table of these peers, each reached at `port`."""
        self._by_length: dict[int, dict[int, tuple[str, int]]] = {}
        self._sources: dict[str, list[tuple[int, int]]] = {}
        for peer in peers:
            shift = 32 - peer.subnet.prefixlen
            base = int(peer.subnet.network_address) >> shift
            address = str(peer.public_ip)
            self._by_length.setdefault(shift, {})[base] = (address, port)
            self._sources.setdefault(address, []).append((shift, base))
        # The longest prefix first, as a routing table has it; in most networks there is one length.
        self._tables = sorted(self._by_length.items())

    def way_out(self, destination: int) -> tuple[str, int] | None:
        """Address and port of the host that holds the subnet of an inner destination."""
        for shift, table in self._tables:
            found = table.get(destination >> shift)
            if found is not None:
                return found
        return None

    def known(self, sender: str) -> bool:
        """Whether a host with that address holds a lease."""
        return sender in self._sources

    def may_send(self, sender: str, source: int) -> bool:
        """Whether an inner source is in a subnet of the host that sent the datagram."""
        return any(source >> shift == base for shift, base in self._sources.get(sender, ()))

"""Hosts that are network namespaces, with a bridge and a container in each: less noise than a cluster."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from tests.perf.place import Pair, Place
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host

_BRIDGE = "bench0"
_PEERS = (IPv4Network("198.19.252.0/24"), IPv4Network("198.19.253.0/24"))
_FOLDER = Path("/run/netns")


class NamespaceTopology:
    """Two hosts of a lab."""

    def __init__(self, first: Host, second: Host) -> None:
        """Values only."""
        self.hosts = first, second
        self.made: list[str] = []
        self._containers = [0, 0]

    @property
    def underlay(self) -> Pair:
        """The hosts' namespaces."""
        first, second = (Place(_FOLDER / one.namespace, one.address) for one in self.hosts)
        return Pair(first, second)

    def containers(self) -> Pair:
        """The lab's containers."""
        first, second = (Place(_FOLDER / one.container, one.container_address) for one in self.hosts)
        return Pair(first, second)

    def peer_container(self, host: int, name: str, mtu_bytes: int) -> Place:
        """One more namespace, on a bridge of its own beside docker's."""
        on, subnet = self.hosts[host].namespace, _PEERS[host]
        if not self._containers[host]:
            namespaces.ip(on, f"link add {_BRIDGE} type bridge", f"address add {subnet[1]}/24 dev {_BRIDGE}")
            namespaces.ip(on, f"link set {_BRIDGE} up")
        self._containers[host] += 1
        number = self._containers[host]
        address, made = subnet[1 + number], f"{on}-{name}"
        namespaces.make(made)
        self.made.append(made)
        namespaces.ip(
            on,
            f"link add peer{number} type veth peer name eth0 netns {made}",
            f"link set peer{number} master {_BRIDGE} up",
        )
        namespaces.ip(
            made,
            f"link set eth0 mtu {mtu_bytes} up",
            f"address add {address}/24 dev eth0",
            f"route add default via {subnet[1]}",
        )
        return Place(_FOLDER / made, address)

    def remove(self) -> None:
        """Remove the peers' containers; the rest is the lab's."""
        for made in self.made:
            namespaces.remove(made)

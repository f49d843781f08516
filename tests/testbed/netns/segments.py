"""Network segments of a lab's underlay: each is a bridge in the switch's namespace, which routes between them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from overlayd.lib import process
from tests.testbed.netns import namespaces

# The numbers in a segment of etcd's members and of the router, the switch's namespace itself.
GATEWAY = 254


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment: hosts on it reach each other without a router. RFC 2544 and RFC 5180: nobody routes either range."""

    bridge: str
    mac: str
    network: IPv4Network
    network6: IPv6Network

    @property
    def gateway(self) -> IPv4Address:
        """The switch's own address on it."""
        return self.network[GATEWAY]

    @property
    def gateway6(self) -> IPv6Address:
        """The same in IPv6. The switch has it only where it routes."""
        return self.network6[GATEWAY]

    def make(self, switch: str) -> None:
        """Make the bridge. Without an address of its own it takes another with every port that comes or goes."""
        namespaces.ip(
            switch,
            f"link add {self.bridge} address {self.mac} type bridge",
            f"address add {self.gateway}/{self.network.prefixlen} dev {self.bridge}",
            f"link set {self.bridge} up",
        )

    def plug_in(self, switch: str, port: str, namespace: str, number: int, *, routed: bool) -> None:
        """Make the cable of a host's namespace. `number` ends its addresses; `routed`: IPv6 has a router."""
        namespaces.ip(
            switch,
            f"link add {port} type veth peer name eth0 netns {namespace}",
            f"link set {port} master {self.bridge} up",
        )
        namespaces.ip(
            namespace,
            f"address add {self.network[number]}/{self.network.prefixlen} dev eth0",
            f"address add {self.network6[number]}/{self.network6.prefixlen} dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {self.gateway}",
            *([f"route add default via {self.gateway6}"] if routed else []),
        )


NEAR, FAR = (
    Segment(
        bridge=f"br{at}",
        mac=f"02:00:00:00:{at:02x}:fe",
        network=IPv4Network(f"198.18.{at + 1}.0/24"),
        network6=IPv6Network(f"2001:2:0:{at + 1}::/64"),
    )
    for at in (0, 1)
)


def make_router(switch: str) -> None:
    """Make the far segment, and route between it and the near one. Hosts made before have no way there by IPv6."""
    FAR.make(switch)
    for segment in (NEAR, FAR):
        namespaces.ip(switch, f"address add {segment.gateway6}/64 dev {segment.bridge} nodad")
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        process.run(["ip", "netns", "exec", switch, "sysctl", "-q", "-w", f"{name}=1"])

"""What others have in a host's kernel: links, addresses, routes, rules, neighbours, and firewall rules of each kind."""

from __future__ import annotations

from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host

# Inside the network; no host leases the last subnet of a network (config: SubnetMax).
INSIDE, INSIDE6 = "10.5.255.0/24", "fd42:0:0:fa00::/64"
_LINKS = (
    "link add mine address 02:99:00:00:00:01 type bridge",
    "link set mine up",
    "address add 10.99.0.1/24 dev mine",
    "address add fd99::1/64 dev mine nodad",
    "link add flannel.9 address 02:99:00:00:00:04 type vxlan id 9 dstport 8479 dev eth0 nolearning",
    "link set flannel.9 up",
)
_ROUTES = (
    "route add 10.98.0.0/16 via 10.99.0.2",
    f"route add {INSIDE} via 10.99.0.2",
    "route add blackhole 10.97.0.0/24",
    "route add 10.96.0.0/24 via 10.99.0.2 table 99",
    "route add fd98::/32 via fd99::2",
    f"route add {INSIDE6} via fd99::2",
    "rule add from 10.99.0.0/24 lookup 99 priority 1000",
    "neighbour add 10.99.0.2 lladdr 02:99:00:00:00:02 dev mine nud permanent",
    "neighbour add fd99::2 lladdr 02:99:00:00:00:02 dev mine nud permanent",
)
_NFT = """
table inet foreign {
    set strangers { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.9 } }
    chain forward { type filter hook forward priority 10; ip saddr @strangers drop; }
}
"""
_IPTABLES = (
    "-N FOREIGN",
    "-A FOREIGN -s 203.0.113.11/32 -j DROP",
    "-A FORWARD -j FOREIGN",
    "-t nat -A POSTROUTING -s 10.99.0.0/24 -m comment --comment FOREIGN -j RETURN",
    "-t mangle -A PREROUTING -s 203.0.113.12/32 -m comment --comment FOREIGN -j DROP",
)
_LOOK = """
ip -br link show mine; ip -br link show flannel.9; ip address show dev mine | grep global
ip route show dev mine; ip route show type blackhole; ip route show table 99; ip rule; ip neighbour show dev mine
ip -6 route show dev mine; ip -6 rule; ip -6 neighbour show dev mine; bridge fdb show dev flannel.9
nft list table inet foreign; iptables-save | grep -e FOREIGN
"""


def plant(host: Host) -> None:
    """Put them into the kernel of a host that has none yet."""
    namespaces.ip(host.namespace, *_LINKS)
    namespaces.ip(host.namespace, *_ROUTES)
    # A batch of `ip` takes IPv4 rules only.
    host.run("ip", "-6", "rule", "add", "from", "fd99::/64", "lookup", "99", "priority", "1000")
    host.run("bridge", "fdb", "append", "02:99:00:00:00:03", "dev", "flannel.9", "dst", "198.18.1.253")
    host.run("nft", "-f", "-", input=_NFT)
    for rule in _IPTABLES:
        host.run("iptables", "-w", *rule.split())


def seen(host: Host) -> str:
    """All of them as text, in an order that does not change. Raises CommandFailed where the host is off."""
    return host.run("sh", "-ec", _LOOK)

"""Two hosts with a container each, and a stranger on the underlay, without daemons: where packets meet the firewall.

`overlay.1` is a plain pair of devices between the hosts: what rules see of an overlay is a device. Everything is there
in IPv4 and in IPv6. In each container TCP ports 80 and 81 listen.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

import pytest

from overlayd import firewall
from tests.testbed.netns import namespaces

NETWORKS: dict[int, IPv4Network | IPv6Network] = {4: IPv4Network("10.5.0.0/16"), 6: IPv6Network("fd00:5::/48")}
STRANGERS = {4: "198.18.3", 6: "fd98:3:"}
PORTS = (80, 81)
DEVICE = "overlay.1"
# A dropped packet has no answer; one that passes has it in far less, but on a busy machine.
DROPPED_S, PASSED_S = 0.25, 10.0
# From a namespace, to an address, to a port.
Attempt = tuple[str, IPv4Address | IPv6Address, int]


class Router:
    """One host, its container, and its subnets by IP version."""

    def __init__(self, number: int, name: str) -> None:
        self.namespace = namespaces.unique(f"{name}{number}")
        self.container = f"{self.namespace}c"
        self.subnets: dict[int, IPv4Network | IPv6Network] = {
            4: IPv4Network(f"10.5.{number}.0/24"),
            6: IPv6Network(f"fd00:5:0:{number}::/64"),
        }
        self.overlay = {4: f"198.18.2.{number}", 6: f"fd98:2::{number}"}
        self.mac = f"02:00:00:00:02:{number:02x}"
        self._listeners: list[socket.socket] = []

    def address(self, version: int) -> IPv4Address | IPv6Address:
        """The container's."""
        return self.subnets[version][2]

    def make(self) -> None:
        """Make the host with its bridge and container; they listen."""
        namespaces.make(self.namespace)
        namespaces.make(self.container)
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            namespaces.run(self.namespace, ["sysctl", "-q", "-w", f"{key}=1"])
        namespaces.ip(
            self.namespace,
            "link add docker0 type bridge",
            f"link add vethc type veth peer name eth0 netns {self.container}",
            "link set vethc master docker0 up",
            "link set docker0 up",
            *(f"address add {net[1]}/{net.prefixlen} dev docker0{_nodad(net)}" for net in self.subnets.values()),
        )
        namespaces.ip(
            self.container,
            "link set eth0 up",
            *(f"address add {net[2]}/{net.prefixlen} dev eth0{_nodad(net)}" for net in self.subnets.values()),
            *(f"route add default via {net[1]}" for net in self.subnets.values()),
        )
        self._listeners = namespaces.inside(
            self.container,
            lambda: [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in PORTS],
        )
        for listener in self._listeners:
            listener.settimeout(5)

    def meet(self, other: Router) -> None:
        """Bring up this end of the overlay, with a route to the other's subnets."""
        namespaces.ip(
            self.namespace,
            f"link set {DEVICE} address {self.mac}",
            f"address add {self.overlay[4]}/24 dev {DEVICE}",
            f"address add {self.overlay[6]}/64 dev {DEVICE} nodad",
            f"link set {DEVICE} up",
            # As on an overlay's devices, where nobody asks for anybody.
            *(f"neighbour replace {other.overlay[v]} lladdr {other.mac} nud permanent dev {DEVICE}" for v in (4, 6)),
            *(f"route add {other.subnets[version]} via {other.overlay[version]}" for version in (4, 6)),
        )

    def desired(self, daemon_json: Mapping[str, object], *, forward: bool = True) -> firewall.DesiredRules:
        """What its firewall has to do, with a dockerd of those settings."""
        return firewall.desired(
            overlays=[firewall.Overlay(network=NETWORKS[version], subnet=self.subnets[version]) for version in (4, 6)],
            devices=[DEVICE],
            masquerade=True,
            forward=forward,
            daemon_json=daemon_json,
        )

    def accept(self, port: int) -> IPv4Address | IPv6Address:
        """Whom the connection came from that is waiting at a port of the container."""
        connection, peer = self._listeners[PORTS.index(port)].accept()
        connection.close()
        found = ip_address(peer[0])
        return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found

    def remove(self) -> None:
        """Remove it all."""
        for listener in self._listeners:
            listener.close()
        for name in (self.container, self.namespace):
            namespaces.remove(name)


class ForwardingSite:
    """Hosts a and b, and the stranger, who is b's neighbour and has routes to its subnets."""

    def __init__(self) -> None:
        self.a, self.b = Router(1, "fa"), Router(2, "fb")
        self.stranger = namespaces.unique("fs")

    def make(self) -> None:
        """Make it, with no rules."""
        for router in (self.a, self.b):
            router.make()
        namespaces.make(self.stranger)
        namespaces.ip(self.a.namespace, f"link add {DEVICE} type veth peer name {DEVICE} netns {self.b.namespace}")
        self.a.meet(self.b)
        self.b.meet(self.a)
        namespaces.ip(
            self.b.namespace,
            f"link add eth0 type veth peer name eth0 netns {self.stranger}",
            f"address add {STRANGERS[4]}.1/24 dev eth0",
            f"address add {STRANGERS[6]}:1/64 dev eth0 nodad",
            "link set eth0 up",
        )
        namespaces.ip(
            self.stranger,
            f"address add {STRANGERS[4]}.2/24 dev eth0",
            f"address add {STRANGERS[6]}:2/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add {self.b.subnets[4]} via {STRANGERS[4]}.1",
            f"route add {self.b.subnets[6]} via {STRANGERS[6]}:1",
        )

    def flush(self) -> None:
        """Take every rule away, by whomever and by whatever program."""
        for router in (self.a, self.b):
            namespaces.run(router.namespace, ["nft", "flush", "ruleset"])
            for command in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
                if shutil.which(command):
                    tables = ("filter", "nat", "raw", "mangle")
                    empty = "".join(f"*{table}\n{_policies(table)}COMMIT\n" for table in tables)
                    namespaces.run(router.namespace, [command], input=empty)

    def remove(self) -> None:
        """Remove it all."""
        self.a.remove()
        self.b.remove()
        namespaces.remove(self.stranger)


@contextmanager
def site() -> Iterator[ForwardingSite]:
    """A site for the length of the block."""
    namespaces.sweep()
    made = ForwardingSite()
    try:
        made.make()
        yield made
    finally:
        made.remove()


def connects(source: str, address: IPv4Address | IPv6Address | str, port: int, *, timeout_s: float = PASSED_S) -> bool:
    """Whether a TCP connection from a namespace is accepted."""
    try:
        with namespaces.inside(source, lambda: socket.create_connection((str(address), port), timeout=timeout_s)):
            return True
    except OSError:
        return False


def accepted_connections(
    tries: Sequence[tuple[str, IPv4Address | IPv6Address, int]],
) -> list[tuple[str, IPv4Address | IPv6Address, int]]:
    """Which of several such connections are accepted. All are tried at once: a dropped one takes its whole timeout."""
    with ThreadPoolExecutor(max_workers=len(tries) or 1) as pool:
        answers = list(pool.map(lambda one: connects(*one, timeout_s=DROPPED_S), tries))
    return [one for one, answer in zip(tries, answers, strict=True) if answer]


def use_iptables(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `iptables` and `ip6tables` the ones of that kind, legacy or nft, for this process and its children."""
    for version in ("", "6"):
        for suffix in ("", "-save", "-restore"):
            found = shutil.which(f"ip{version}tables-{kind}{suffix}")
            if found is None:
                pytest.skip(f"this machine has no iptables-{kind}")
            (folder / f"ip{version}tables{suffix}").symlink_to(found)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def _nodad(net: IPv4Network | IPv6Network) -> str:
    return " nodad" if net.version == 6 else ""


def _policies(table: str) -> str:
    chains = {"filter": ("FORWARD",), "raw": ("PREROUTING",), "mangle": ("FORWARD",), "nat": ("POSTROUTING",)}[table]
    return "".join(f":{name} ACCEPT [0:0]\n" for name in chains)

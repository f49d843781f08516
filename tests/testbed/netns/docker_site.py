"""Hosts with a real Docker of one release: a and b with overlayd, c with Docker alone, and strangers around them.

Each host has two containers, one of which publishes its port 80 as 8080. The stranger is on the underlay's segment,
with routes by each host to its containers and to the network behind it, where somebody else is.
"""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from tests.testbed.netns import namespaces
from tests.testbed.netns.forwarding import accepted_connections, connects
from tests.testbed.netns.lab import UNDERLAY, UNDERLAY6, Host, Lab, laboratory
from tests.testbed.netns.real_docker import PUBLISHED, PUBLISHED_AS, Docker, DockerRelease, installed
from tests.testbed.netns.traffic import answered_pings, reaches
from tests.testbed.polling import eventually
from tests.testbed.records import Connection

Address = IPv4Address | IPv6Address
UNPUBLISHED = 81
# Docker alone has no lease; nobody routes these either.
ALONE: dict[int, IPv4Network | IPv6Network] = {
    4: IPv4Network("198.19.9.0/24"),
    6: IPv6Network("2001:2:0:909::/64"),
}
# A way is not closed because an address is being looked at: for a second nobody is asked for link addresses.
_NO_DAD = ("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
_COMMANDS = {4: "iptables", 6: "ip6tables"}
LIVE_RESTORE = '{"live-restore": true}'


@dataclass(frozen=True)
class Way:
    """A way by which a stranger tries to get past a host."""

    name: str
    version: int
    address: Address
    port: int

    def __str__(self) -> str:
        return f"{self.name} ({self.version})"


class DockerSite:
    """The hosts, their dockers by name, and who is around them."""

    def __init__(self, lab: Lab, release: DockerRelease) -> None:
        """Values only; `docker_site` makes it."""
        self.lab = lab
        self.release = release
        self.a, self.b, self.c = (lab.host(name, start=False, settings={"fast-path": "auto"}) for name in "abc")
        self.dockers: Mapping[str, Docker] = {}
        # What Docker alone has written for the first container, by IP version.
        self.alone: dict[int, str] = {}
        # There may be a second site.
        self.stranger = f"{lab.switch}-stranger"
        self.behind = {host.name: f"{lab.switch}-behind-{host.name}" for host in (self.b, self.c)}

    def make(self) -> None:
        """Start it all: overlayd before docker, as their units do."""
        for host in (self.a, self.b, self.c):
            host.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0", *_NO_DAD)
            docker = self.dockers[host.name]
            docker.configure(LIVE_RESTORE)
            if host is self.c:
                docker.start(f"--bip={ALONE[4][1]}/24", "--ipv6", f"--fixed-cidr-v6={ALONE[6]}", "--ip-masq=false")
            else:
                host.start()
                docker.start_for_lease()
            docker.run(host.container, published=True)
            if host is self.c:
                self.alone = {version: host.run(f"{command}-save") for version, command in _COMMANDS.items()}
            docker.run(self.second(host))
        self._make_strangers()
        eventually("peers reach each other", self.peers_reach_each_other)

    def remove(self) -> None:
        """Remove the strangers; the lab and the dockers have their own blocks."""
        for name in (self.stranger, *self.behind.values()):
            namespaces.remove(name)

    def second(self, host: Host) -> str:
        """The container that publishes nothing."""
        return f"{host.container}2"

    def peers_reach_each_other(self) -> bool:
        """Whether containers of a and b do, both ways, in both families."""
        pairs = ((self.a, self.b), (self.b, self.a))
        return all(reaches(one, address) for one, other in pairs for address in self.addresses(other))

    def addresses(self, host: Host) -> tuple[Address, Address]:
        """Of its first container. Before 27 Docker makes the IPv6 one of the MAC."""
        docker = self.dockers[host.name]
        return docker.address(host.container), docker.address6(host.container)

    def connections(self, backend: str) -> list[Connection]:
        """A few echoes each way between the first containers of a and b, in both families; a row for each way."""
        found = []
        for one, other in ((self.a, self.b), (self.b, self.a)):
            with self.dockers[one.name].api() as api:
                version = str(api.version()["Version"])
            pings = [answered_pings(one.container, address) for address in self.addresses(other)]
            found.append(
                Connection(
                    source=one.name,
                    target=other.name,
                    backend=backend,
                    docker=version.partition("+")[0],
                    kernel=platform.release(),
                    sent=sum(ping.sent for ping in pings),
                    lost=sum(ping.lost for ping in pings),
                )
            )
        return found

    def ways(self, host: Host) -> list[Way]:
        """What a stranger tries with a host."""
        docker, found = self.dockers[host.name], []
        for version, address in ((4, docker.address), (6, docker.address6)):
            one, other = address(host.container), address(self.second(host))
            found += [
                Way("a published port at the container's own address", version, one, PUBLISHED),
                Way("a port that is not published", version, one, UNPUBLISHED),
                Way("a container that publishes nothing", version, other, PUBLISHED),
                Way("another network, through the host", version, _behind(host)[version], PUBLISHED),
            ]
        return found

    def passed(self, host: Host) -> list[str]:
        """The ways that are open to the stranger."""
        ways = self.ways(host)
        targets = (host.container, self.second(host), self.behind[host.name])
        with ExitStack() as stack:
            for name in targets:
                stack.enter_context(listening(name))
            through = accepted_connections([(self.stranger, way.address, way.port) for way in ways])
        return [str(way) for way in ways if (self.stranger, way.address, way.port) in through]

    def publishes(self, host: Host, version: int) -> bool:
        """Whether the stranger reaches the published port by the host's address."""
        with listening(host.container):
            return connects(self.stranger, host.address if version == 4 else host.address6, PUBLISHED_AS)

    def _make_strangers(self) -> None:
        namespaces.make(self.stranger)
        namespaces.ip(
            self.lab.switch, f"link add ps type veth peer name eth0 netns {self.stranger}", "link set ps master br0 up"
        )
        namespaces.ip(
            self.stranger,
            f"address add {UNDERLAY[200]}/24 dev eth0",
            f"address add {UNDERLAY6[200]}/64 dev eth0 nodad",
            "link set eth0 up",
        )
        for host in (self.b, self.c):
            nets = [host.subnet, host.subnet6] if host is not self.c else list(ALONE.values())
            behind = self.behind[host.name]
            namespaces.make(behind)
            namespaces.run(behind, ["sysctl", "-qw", *_NO_DAD])
            namespaces.ip(host.namespace, f"link add eth1 type veth peer name eth0 netns {behind}", "link set eth1 up")
            namespaces.ip(behind, "link set eth0 up")
            for version, address in _behind(host).items():
                length, nodad = (24, "") if version == 4 else (64, " nodad")
                namespaces.ip(host.namespace, f"address add {address - 1}/{length} dev eth1{nodad}")
                namespaces.ip(behind, f"address add {address}/{length} dev eth0{nodad}")
                namespaces.ip(behind, f"route add default via {address - 1}")
                via = host.address if version == 4 else host.address6
                namespaces.ip(self.stranger, f"route add {address}/{address.max_prefixlen} via {via}")
                namespaces.ip(
                    self.stranger, *(f"route add {net} via {via}" for net in nets if net and net.version == version)
                )


@contextmanager
def docker_site(folder: Path, release: DockerRelease, backend: str = "vxlan") -> Iterator[DockerSite]:
    """A site for the length of the block."""
    with ExitStack() as stack:
        lab = stack.enter_context(laboratory(folder, {"Type": backend}, dual=True))
        site = DockerSite(lab, release)
        site.dockers = stack.enter_context(installed(lab.hosts, release))
        stack.callback(site.remove)
        site.make()
        yield site


@contextmanager
def listening(name: str, ports: tuple[int, ...] = (PUBLISHED, UNPUBLISHED)) -> Iterator[list[socket.socket]]:
    """Ports that take connections in a namespace, for the length of the block."""
    make = partial(socket.create_server, family=socket.AF_INET6, dualstack_ipv6=True)
    found = namespaces.inside(name, lambda: [make(("::", port)) for port in ports])
    try:
        yield found
    finally:
        for one in found:
            one.close()


def _behind(host: Host) -> dict[int, Address]:
    """The address of somebody on another network that a host is on."""
    number = int(host.address) % 256
    return {4: IPv4Address(f"198.19.{number}.2"), 6: IPv6Address(f"2001:2:0:{number}00::2")}

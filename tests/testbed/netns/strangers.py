"""Two hosts with real daemons, everybody who is no peer around them, and each way that those try to get in.

`a` and `b` hold leases; what is tried is to reach the container of `b`, or a program of host b itself. The strangers:

- beside: on the underlay's own segment; behind: another segment, by a router on the first;
- former: a host whose lease ended, all as it was when it held one, and its container;
- root and nobody in a container of a (a peer's) and in one of b's own; in a container of a user-defined bridge on each.

All of them send at once; each packet has a number, and who sees which number arrive knows what got through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from overlayd.backends.vxlan import vtep_mac
from tests.testbed.netns import namespaces, wire
from tests.testbed.netns.lab import SWITCH_ADDRESS, UNDERLAY, UNDERLAY6, Host, Lab
from tests.testbed.netns.wire import Address

SECRET_PORT, HOST_PORT = 81, 9999
USER_BRIDGE = "br-0123456789ab"
ROUTER6 = UNDERLAY6[254]
CARRIERS = {"vxlan": 8472, "auto": 8472, "udp": 8285}
VNI = 1
# Where a stranger behind the router is; nobody routes either.
BEHIND: dict[int, Address] = {4: IPv4Address("198.18.200.2"), 6: IPv6Address("2001:2:0:200::2")}
BESIDE: dict[int, Address] = {4: UNDERLAY[200], 6: UNDERLAY6[200]}
# Every host of the segment takes what is for these: broadcast, multicast, and anycast to its routers.
EVERYBODY: dict[int, tuple[Address, ...]] = {
    4: (IPv4Address("224.0.0.1"), IPv4Address("255.255.255.255"), UNDERLAY.broadcast_address),
    6: (IPv6Address("ff02::1"), UNDERLAY6.network_address),
}
# An address that b has beside the one that it published.
SECOND: dict[int, Address] = {4: UNDERLAY[202], 6: UNDERLAY6[202]}
USER_NET = {"a": "172.30.1", "b": "172.30.2"}


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way of one stranger, over one IP version. `open_by_nature`: nobody can tell it from a peer's packet."""

    who: str
    way: str
    version: int
    send: Callable[[bytes, int], None] = field(repr=False)
    open_by_nature: bool = False

    def __str__(self) -> str:
        return f"{self.who}: {self.way}"


@dataclass(frozen=True)
class Sent:
    """How a packet leaves: in which IP version, by which of the stranger's gateways, with which source."""

    version: int
    gateway: str
    source: Address


@dataclass
class Stranger:
    """A namespace with one interface to send by, the gateway's MAC by name, and its own addresses."""

    name: str
    namespace: str
    interface: str
    gateways: dict[str, str]
    addresses: Mapping[int, Address]
    mac: str = ""

    def put(self, gateway: str, packet: bytes) -> None:
        """Send a packet by a gateway of that name."""
        self.mac = self.mac or wire.mac_of(self.namespace, self.interface)
        wire.send(self.namespace, self.interface, [wire.frame(self.gateways[gateway], self.mac, packet)])


class StrangersSite:
    """The strangers around hosts a and b of a lab."""

    def __init__(self, lab: Lab, backend: str) -> None:
        """`backend` is the type in the network config."""
        self.lab = lab
        self.backend = backend
        self.a, self.b = lab.hosts[0], lab.hosts[1]
        self.versions = (4, 6) if lab.dual else (4,)
        self._made: list[str] = []

    def make(self) -> None:
        """Make the strangers that are not there yet: beside, behind, and on user-defined bridges."""
        for address in (f"{SECOND[4]}/24", f"{SECOND[6]}/64 nodad"):
            namespaces.ip(self.b.namespace, f"address add {address} dev eth0")
        self.beside = self._on_segment()
        self.behind = self._behind()
        self.users = {host.name: self._user_bridge(host) for host in (self.a, self.b)}

    def remove(self) -> None:
        """Remove them."""
        for name in self._made:
            namespaces.remove(name)

    def _namespace(self, role: str) -> str:
        name = namespaces.unique(f"s{role}")
        namespaces.make(name)
        self._made.append(name)
        return name

    def _hosts_by_mac(self) -> dict[str, str]:
        return {host.name: wire.mac_of(host.namespace, "eth0") for host in (self.a, self.b)}

    def _on_segment(self) -> Stranger:
        name = self._namespace("beside")
        namespaces.ip(
            self.lab.switch, f"link add ps type veth peer name eth0 netns {name}", "link set ps master br0 up"
        )
        namespaces.ip(
            name,
            f"address add {BESIDE[4]}/24 dev eth0",
            f"address add {BESIDE[6]}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {SWITCH_ADDRESS}",
        )
        return Stranger("beside", name, "eth0", self._hosts_by_mac(), BESIDE)

    def _behind(self) -> Stranger:
        name = self._namespace("behind")
        four, six = BEHIND[4], BEHIND[6]
        namespaces.run(self.lab.switch, ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        namespaces.ip(
            self.lab.switch,
            f"link add pb type veth peer name eth0 netns {name}",
            f"address add {ip_address(int(four) - 1)}/24 dev pb",
            f"address add {ip_address(int(six) - 1)}/64 dev pb nodad",
            f"address add {ROUTER6}/64 dev br0 nodad",
            "link set pb up",
        )
        namespaces.ip(
            name,
            f"address add {four}/24 dev eth0",
            f"address add {six}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {ip_address(int(four) - 1)}",
            f"route add default via {ip_address(int(six) - 1)}",
        )
        for host in (self.a, self.b):
            namespaces.ip(host.namespace, f"route replace default via {ROUTER6}")
            # Somebody's network has such routes, and the stranger behind it uses them.
            namespaces.ip(self.lab.switch, f"route add {host.subnet} via {host.address}")
            if host.subnet6 is not None:
                namespaces.ip(self.lab.switch, f"route add {host.subnet6} via {host.address6}")
            # The router's link address is known as soon as one packet was answered; until then, there is one a second.
            host.run("ping", "-n", "-c", "1", "-w", "20", str(SWITCH_ADDRESS))
            host.run("ping", "-n", "-c", "1", "-w", "20", str(ROUTER6))
        return Stranger("behind", name, "eth0", {"router": wire.mac_of(self.lab.switch, "pb")}, BEHIND)

    def _user_bridge(self, host: Host) -> Stranger:
        """A container on a bridge of `docker network create`, with the rules that Docker writes for it."""
        name, net = self._namespace(f"user{host.name}"), USER_NET[host.name]
        namespaces.ip(
            host.namespace,
            f"link add {USER_BRIDGE} type bridge",
            f"address add {net}.1/24 dev {USER_BRIDGE}",
            f"link add vethu type veth peer name eth0 netns {name}",
            f"link set vethu master {USER_BRIDGE} up",
            f"link set {USER_BRIDGE} up",
        )
        namespaces.ip(name, f"address add {net}.2/24 dev eth0", "link set eth0 up", f"route add default via {net}.1")
        gateway = {"host": wire.mac_of(host.namespace, USER_BRIDGE)}
        return Stranger(f"user-bridge container of {host.name}", name, "eth0", gateway, {4: IPv4Address(f"{net}.2")})

    def container(self, host: Host) -> Stranger:
        """The container of a host, as an attacker."""
        addresses: dict[int, Address] = {4: host.container_address}
        if self.lab.dual:
            addresses[6] = host.container_address6
        gateway = {"host": wire.mac_of(host.namespace, "docker0")}
        return Stranger(f"container of {host.name}", host.container, "eth0", gateway, addresses)

    def public(self, host: Host, version: int) -> Address:
        """A host's address on the underlay."""
        return host.address if version == 4 else host.address6

    def inside_of(self, host: Host, version: int, number: int = 2) -> Address:
        """An address of a host's subnet; 2 is its container, 1 its bridge."""
        subnet = host.subnet if version == 4 else host.subnet6
        assert subnet is not None
        return subnet[number]

    def carried(self, inner: bytes, version: int) -> bytes | None:
        """What the backend's datagram for host b carries; None where the backend has none that could be forged."""
        if self.backend in ("vxlan", "auto"):
            return wire.vxlan(VNI, wire.frame(vtep_mac(self.public(self.b, version), VNI), "02:66:66:66:66:66", inner))
        return inner if self.backend == "udp" else None

    def attempts(self) -> Iterator[Attempt]:
        """All of them, for every IP version."""
        for version in self.versions:
            yield from self._plain(version)
            yield from self._by_backend(version)

    def _plain(self, version: int) -> Iterator[Attempt]:
        """Without the backend: by routes to b or to a, with one's own source or one of the network's."""
        forged, neighbour = self.inside_of(self.a, version), self.inside_of(self.b, version, 77)
        for stranger, ways in ((self.beside, {"b": "", "a": " through a"}), (self.behind, {"router": ""})):
            own = stranger.addresses[version]
            for gateway, through in ways.items():
                what = f"the container{through}"
                # On one segment a peer is known by nothing but its link's address, which can be forged too.
                alike = self.backend in ("host-gw", "auto") and gateway == "b"
                yield self._udp(stranger, what, Sent(version, gateway, own))
                yield self._udp(stranger, f"{what}, as a's container", Sent(version, gateway, forged), alike=alike)
                yield self._udp(stranger, f"{what}, as its neighbour", Sent(version, gateway, neighbour))
        peer = self.container(self.a)
        own, outside = peer.addresses[version], BEHIND[version]
        yield self._udp(peer, "the container, as its neighbour", Sent(version, "host", neighbour))
        yield self._udp(peer, "b's own port, as a stranger", Sent(version, "host", outside), to_host=True)
        yield self._udp(peer, "b's own port, by the overlay", Sent(version, "host", own), to_host=True)
        if version == 4:
            for user in self.users.values():
                yield self._udp(user, "the container, as a's container", Sent(4, "host", forged))
            here = self.users["b"]
            yield self._udp(here, "the container", Sent(4, "host", here.addresses[4]))

    def _by_backend(self, version: int) -> Iterator[Attempt]:
        """By the backend's port, on b and relayed by a."""
        port = CARRIERS.get(self.backend)
        if port is None or (self.backend == "udp" and version == 6):
            return
        a, forged = self.public(self.a, version), self.inside_of(self.a, version)
        what = "the backend's port"
        for stranger, gateway in ((self.beside, "b"), (self.behind, "router")):
            own, as_a = Sent(version, gateway, stranger.addresses[version]), Sent(version, gateway, a)
            yield self._carried(stranger, what, own, forged)
            # Whoever can send with a peer's address is that peer to a backend that does not encrypt.
            yield self._carried(stranger, f"{what}, as a", as_a, forged, open_by_nature=True)
            yield self._carried(stranger, f"{what}, as a, with a stranger inside", as_a, BEHIND[version])
            neighbour = self.inside_of(self.b, version, 77)
            yield self._carried(stranger, f"{what}, as a, with a neighbour inside", as_a, neighbour)
        masqueraded = Sent(version, "a", self.inside_of(self.a, version, 66))
        yield self._carried(self.beside, f"{what}, masqueraded by a", masqueraded, forged)
        yield from self._to_other_addresses(version)
        for stranger in (self.container(self.a), self.container(self.b), *self.users.values()):
            if version in stranger.addresses:
                yield self._carried(stranger, what, Sent(version, "host", stranger.addresses[version]), forged)
                yield self._carried(stranger, f"{what}, as a", Sent(version, "host", a), forged)
                yield self._as_nobody(stranger, f"{what}, as nobody", version, forged)

    def _to_other_addresses(self, version: int) -> Iterator[Attempt]:
        """By the backend's port, to whatever else b takes packets for."""
        forged, on_b, bridge = self.inside_of(self.a, version), self.container(self.b), self.inside_of(self.b, version)
        own = Sent(version, "b", self.beside.addresses[version])
        for where in EVERYBODY[version]:
            yield self._carried(self.beside, f"the backend's port at {where}", own, forged, where=where)
            sent = Sent(version, "host", bridge)
            yield self._carried(on_b, f"the backend's port at {where}", sent, forged, where=where)
        if version == 4:
            yield self._as_nobody(on_b, "the backend's port for everybody, as nobody", 4, forged, where=EVERYBODY[4][0])
        peer = self.container(self.a)
        for where in (self.inside_of(self.b, version, 1), SECOND[version]):
            sent = Sent(version, "host", peer.addresses[version])
            yield self._carried(peer, f"the backend's port at {where}", sent, forged, where=where)

    def _udp(self, stranger: Stranger, way: str, sent: Sent, *, to_host: bool = False, alike: bool = False) -> Attempt:
        """A datagram to b's container, or to a port of b's own at its bridge's address."""
        where, port = self.inside_of(self.b, sent.version), SECRET_PORT
        if to_host:
            where, port = self.inside_of(self.b, sent.version, 1), HOST_PORT

        def send(payload: bytes, number: int) -> None:
            stranger.put(sent.gateway, wire.udp(sent.source, where, port, payload, source_port=20000 + number))

        return Attempt(who=stranger.name, way=way, version=sent.version, send=send, open_by_nature=alike)

    def _carried(
        self,
        stranger: Stranger,
        way: str,
        sent: Sent,
        inner_source: Address,
        *,
        open_by_nature: bool = False,
        where: Address | None = None,
    ) -> Attempt:
        """What the backend carries, to its port on b."""
        destination, port = where or self.public(self.b, sent.version), CARRIERS[self.backend]

        def send(payload: bytes, number: int) -> None:
            outer = self._outer(inner_source, payload, number)
            stranger.put(sent.gateway, wire.udp(sent.source, destination, port, outer, source_port=20000 + number))

        return Attempt(who=stranger.name, way=way, version=sent.version, send=send, open_by_nature=open_by_nature)

    def _as_nobody(
        self, stranger: Stranger, way: str, version: int, inner_source: Address, *, where: Address | None = None
    ) -> Attempt:
        destination, port = where or self.public(self.b, version), CARRIERS[self.backend]

        def send(payload: bytes, number: int) -> None:
            wire.as_nobody(stranger.namespace, destination, port, self._outer(inner_source, payload, number))

        return Attempt(who=stranger.name, way=way, version=version, send=send)

    def _outer(self, inner_source: Address, payload: bytes, number: int) -> bytes:
        version = inner_source.version
        inner = wire.udp(
            inner_source, self.inside_of(self.b, version), SECRET_PORT, payload, source_port=20000 + number
        )
        carried = self.carried(inner, version)
        assert carried is not None
        return carried


@contextmanager
def strangers_site(lab: Lab, backend: str) -> Iterator[StrangersSite]:
    """Strangers around the hosts a and b of a lab, for the length of the block."""
    made = StrangersSite(lab, backend)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def arrived(at: StrangersSite, attempts: list[Attempt]) -> set[int]:
    """Make all attempts at once; the indices of those that got through."""
    seen = wire.Sightings()
    with (
        wire.watching(at.b.container, "eth0", seen),
        wire.listening(at.b.namespace, HOST_PORT, seen),
    ):
        for number, attempt in enumerate(attempts):
            attempt.send(wire.token(number), number)
    return seen.numbers

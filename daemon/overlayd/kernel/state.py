"""What we put in the kernel, as values. Pure: no I/O.

A new kind of object is one class here, its reader (netlink.read, decode.py) and its writer (netlink.apply).

Our marks (lib/marks.py), by which we find our own after a crash and never touch anything else: links carry an alias,
routes a protocol number; addresses, neighbours, FDB entries and WireGuard peers count as ours on our own links only.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import field, replace
from typing import ClassVar, Self, TypeVar

from overlayd.lib.addresses import IPAddress, IPInterface, IPNetwork
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class KernelObject:
    """One object in the kernel. Each kind is a subclass that is a frozen dataclass, with the class attributes below.

    Kinds of which each peer has one have slots: there are thousands.
    """

    __slots__ = ()

    rank: ClassVar[int]
    """The place in the order of operations: a lower rank is made first and deleted last, as others stand on it."""
    noun: ClassVar[str]
    """The kind as `ip` names it."""
    deletable: ClassVar[bool] = True
    """Whether an object that is not desired any more is deleted."""

    @property
    def key(self) -> Hashable:
        """What identifies an object of this kind in the kernel: a second one with the same key replaces the first."""
        raise NotImplementedError

    @property
    def on_link(self) -> str | None:
        """The link that this stands on, and is deleted with."""
        link: str | None = getattr(self, "link", None)
        return link

    def satisfied_by(self, actual: Self) -> bool:
        """Whether the object that has this one's key in the kernel may stay as it is."""
        return self == actual


@dataclass(frozen=True, kw_only=True)
class Link(KernelObject):
    """What all links of ours have."""

    rank: ClassVar[int] = 0
    noun: ClassVar[str] = "link"

    name: str
    mtu_bytes: int
    up: bool = True

    @property
    def key(self) -> Hashable:
        """What identifies a link in the kernel."""
        return self.name

    @property
    def fixed(self) -> Link:
        """The link with all that the kernel can change in place blanked out."""
        return replace(self, mtu_bytes=0, up=True)

    def excludes(self, other: Link) -> bool:  # noqa: ARG002
        """Whether the kernel refuses to make `other`, of another name, while this link is there."""
        return False


@dataclass(frozen=True, kw_only=True)
class VxlanLink(Link):
    """A VXLAN device over one underlay interface. `port` is UDP; `local` the outer source address.

    Over IPv6, outer UDP checksums of zero may be sent and taken (RFC 6935); over IPv4 every device takes them.
    """

    vni: int
    port: int
    local: IPAddress
    underlay: str
    mac: str
    gbp: bool = False
    learning: bool = False
    sends_zero_csum6: bool = False
    takes_zero_csum6: bool = True

    @property
    def fixed(self) -> Link:
        """The link with all that the kernel can change in place blanked out."""
        return replace(self, mtu_bytes=0, up=True, mac="")

    def excludes(self, other: Link) -> bool:
        """Links with one port share a socket a family, and all its flags (VXLAN_F_RCV_FLAGS); a VNI is there once."""
        if not isinstance(other, VxlanLink) or self.name == other.name:
            return False
        same_socket = (self.port, self.local.version) == (other.port, other.local.version)
        return same_socket and (self.vni == other.vni or self.gbp != other.gbp)

    def __str__(self) -> str:
        return f"{self.name} vxlan id {self.vni} dstport {self.port} local {self.local} dev {self.underlay}"


@dataclass(frozen=True, kw_only=True)
class TunLink(Link):
    """A persistent TUN device: bare IP packets, no packet information."""

    def __str__(self) -> str:
        return f"{self.name} mode tun"


@dataclass(frozen=True, kw_only=True)
class IpipLink(Link):
    """An IP-in-IP device (RFC 2003) of many far ends: a route's gateway is the outer destination."""

    local: IPAddress

    def __str__(self) -> str:
        return f"{self.name} type ipip local {self.local}"


@dataclass(frozen=True, kw_only=True)
class WireguardLink(Link):
    """A WireGuard device, the kernel's or wireguard-go's. `private_key` is base64; `listen_port` a UDP port."""

    private_key: str = field(repr=False)
    listen_port: int

    @property
    def fixed(self) -> Link:
        """The link with all that the kernel can change in place blanked out."""
        return replace(self, mtu_bytes=0, up=True, private_key="", listen_port=0)

    def excludes(self, other: Link) -> bool:
        """Two WireGuard links cannot have the same port."""
        return isinstance(other, WireguardLink) and self.name != other.name and self.listen_port == other.listen_port

    def __str__(self) -> str:
        return f"{self.name} wireguard listen-port {self.listen_port}"


@dataclass(frozen=True, kw_only=True)
class WireguardPeer(KernelObject):
    """One peer of a WireGuard device: what is sent to `allowed_ips` goes to it, and only from there it may send.

    Keys are base64. `endpoint` is address and UDP port. With `roams`, the device was given this endpoint before: if it
    has another one now, the peer was last heard from there, and that endpoint stays.
    """

    rank: ClassVar[int] = 5
    noun: ClassVar[str] = "peer"

    link: str
    public_key: str
    endpoint: tuple[IPAddress, int] | None
    allowed_ips: frozenset[IPNetwork]
    preshared_key: str | None = field(default=None, repr=False)
    keepalive_s: int = 0
    roams: bool = field(default=False, compare=False)

    @property
    def key(self) -> Hashable:
        """What identifies a peer of a device in the kernel."""
        return (self.link, self.public_key)

    def satisfied_by(self, actual: Self) -> bool:
        """Whether the peer that the device has is this one; where it roams, it may have moved since."""
        if self.roams and actual.endpoint:
            actual = replace(actual, endpoint=self.endpoint)
        return self == actual

    def __str__(self) -> str:
        parts = [self.public_key, "dev", self.link]
        if self.endpoint is not None:
            address, port = self.endpoint
            parts += ["endpoint", f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"]
        parts += ["allowed-ips", ",".join(sorted(map(str, self.allowed_ips))) or "(none)"]
        return " ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Address(KernelObject):
    """One address, with its prefix length, on one of our links."""

    rank: ClassVar[int] = 2
    noun: ClassVar[str] = "address"

    link: str
    address: IPInterface

    @property
    def key(self) -> Hashable:
        """What identifies an address of a link in the kernel."""
        return (self.link, self.address)

    def __str__(self) -> str:
        return f"{self.address} dev {self.link}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route(KernelObject):
    """One route of the main table. `link` may be any interface, `src` is the preferred source.

    A `metric` of 0 is the family's usual one. Without a link it is a blackhole: what it takes is dropped.
    """

    rank: ClassVar[int] = 6
    noun: ClassVar[str] = "route"

    dst: IPNetwork
    link: str | None
    via: IPAddress | None = None
    onlink: bool = False
    src: IPAddress | None = None
    metric: int = 0

    @property
    def key(self) -> Hashable:
        """What identifies a route of one table in the kernel."""
        return (self.dst, self.metric)

    def __str__(self) -> str:
        parts = [] if self.link else ["blackhole"]
        parts += [str(self.dst)]
        parts += ["via", str(self.via)] if self.via else []
        parts += ["dev", self.link] if self.link else []
        parts += ["onlink"] if self.onlink else []
        parts += ["src", str(self.src)] if self.src else []
        parts += ["metric", str(self.metric)] if self.metric else []
        return " ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour(KernelObject):
    """A permanent ARP or neighbour discovery entry on one of our links. `mac` is in lower case."""

    rank: ClassVar[int] = 3
    noun: ClassVar[str] = "neighbour"

    link: str
    address: IPAddress
    mac: str

    @property
    def key(self) -> Hashable:
        """What identifies a neighbour in the kernel."""
        return (self.link, self.address)

    def __str__(self) -> str:
        return f"{self.address} lladdr {self.mac} dev {self.link}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FdbEntry(KernelObject):
    """Where a VXLAN link sends frames for one MAC: to the VTEP at `dst`. `mac` is in lower case."""

    rank: ClassVar[int] = 4
    noun: ClassVar[str] = "fdb"

    link: str
    mac: str
    dst: IPAddress

    @property
    def key(self) -> Hashable:
        """What identifies an FDB entry for a unicast MAC in the kernel."""
        return (self.link, self.mac)

    def __str__(self) -> str:
        return f"{self.mac} dev {self.link} dst {self.dst}"


@dataclass(frozen=True, kw_only=True)
class Sysctl(KernelObject):
    """One kernel setting, named with slashes as under /proc/sys: device names contain dots. It is never set back.

    `link` is the link of ours that it belongs to, if any.
    """

    rank: ClassVar[int] = 1
    noun: ClassVar[str] = "sysctl"
    deletable: ClassVar[bool] = False

    name: str
    value: str
    link: str | None = None

    @property
    def key(self) -> Hashable:
        """What identifies a setting in the kernel."""
        return self.name

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


FORWARDING = Sysctl(name="net/ipv4/ip_forward", value="1")
FORWARDING6 = Sysctl(name="net/ipv6/conf/all/forwarding", value="1")
# Links of ours accept no router advertisement and no redirect: by one packet into the overlay, its sender could give
# this host a route (Documentation/networking/ip-sysctl.rst).
_REFUSED_ADVICE = (
    "net/ipv4/conf/{}/accept_redirects",
    "net/ipv4/conf/{}/send_redirects",
    "net/ipv6/conf/{}/accept_ra",
    "net/ipv6/conf/{}/accept_redirects",
    "net/ipv6/conf/{}/autoconf",
)


def link_settings(name: str, *, ipv6: bool) -> tuple[Sysctl, ...]:
    """The settings of a link of ours; without `ipv6`, IPv6 is switched off on it."""
    return (
        *(Sysctl(name=one.format(name), value="0", link=name) for one in _REFUSED_ADVICE),
        Sysctl(name=f"net/ipv6/conf/{name}/disable_ipv6", value="0" if ipv6 else "1", link=name),
    )


K = TypeVar("K", bound=KernelObject)


@dataclass(frozen=True)
class KernelState:
    """All of ours that is in the kernel, or that should be. No two objects of one kind have the same key."""

    objects: frozenset[KernelObject] = frozenset()

    def all_of(self, *kinds: type[K]) -> frozenset[K]:
        """The objects of these kinds."""
        return frozenset(item for item in self.objects if isinstance(item, kinds))

    def without(self, gone: Iterable[KernelObject]) -> KernelState:
        """The state less these objects."""
        return KernelState(self.objects.difference(gone))

"""Interfaces, their addresses and neighbours by rtnetlink(7): read, whosever they are; interfaces made and changed."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Generic, TypeVar

from overlayd.kernel.messages import (
    FAMILY,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    ask,
    attribute,
    attributes,
    change,
    dump,
    number,
    opened,
    string,
    text,
    word,
)
from overlayd.lib.addresses import IPAddress, IPInterface
from overlayd.lib.quick_dataclass import dataclass

T = TypeVar("T")

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
AF_BRIDGE = 7
# linux/if_link.h, linux/if_addr.h, linux/neighbour.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_QDISC, IFLA_MASTER = 1, 3, 4, 5, 6, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_EXT_MASK, IFLA_LINK_NETNSID, IFLA_TARGET_NETNSID = 18, 20, 29, 37, 46
IFLA_XDP, IFLA_XDP_ATTACHED = 43, 2
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_PORT_KIND, IFLA_INFO_PORT_DATA = 1, 2, 4, 5
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_TARGET_NETNSID = 1, 2, 8, 10
# linux/netlink.h: the kernel heeds, or refuses, every attribute of a request (Linux 4.20).
SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
# Without counters (Linux 4.4), which fill a dump and are summed over all processors.
RTEXT_FILTER_SKIP_STATS = 0x8
# linux/if_link.h, linux/if_bridge.h
IFLA_BRPORT_STATE, IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LOCKED, BR_STATE_FORWARDING = 1, 33, 39, b"\3"
IFF_UP = 0x1
# linux/if_arp.h: packets begin with an Ethernet header.
ARPHRD_ETHER = 1
IFA_F_NODAD = 0x02
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, mask of the flags to change
NEIGHBOUR = struct.Struct("=B3xiHBB")  # ndmsg: family, interface, state, flags, type
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefix length, flags, scope, index


@dataclass(frozen=True, kw_only=True)
class LinkMessage:
    """One interface as the kernel describes it.

    `kind` is netlink's word (`bridge`, `vxlan`), None for hardware, and `data` that kind's own attributes by number.
    `master` and `peer` are indexes: its bridge, and the interface below or at the other end of a pair. 0 is none. Where
    that is in another network namespace, `namespace` is the number that this one has for it. `qdisc` is the queueing
    discipline of what it sends. `hardware` is its type as linux/if_arp.h has it. `restricted`: it is the port of
    a bridge that lets not all packets through it: not forwarding, or isolated, or locked (bridge(8)). `xdp`: a program
    of XDP sees what arrives by it.
    """

    index: int
    name: str
    flags: int
    mtu_bytes: int
    mac: str | None = None
    alias: str | None = None
    master: int = 0
    peer: int = 0
    namespace: int | None = None
    qdisc: str | None = None
    hardware: int = ARPHRD_ETHER
    restricted: bool = False
    xdp: bool = False
    kind: str | None = None
    data: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def elsewhere(self) -> bool:
        """Whether the other end of the pair is in another network namespace."""
        return self.namespace is not None

    @property
    def up(self) -> bool:
        """Whether it was switched on."""
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, kw_only=True)
class AddressMessage:
    """One address of the interface with that index. `flags` are IFA_F_… of linux/if_addr.h."""

    index: int
    address: IPInterface
    flags: int


class _Parsed(Generic[T]):
    """Parses messages, but not again those of the last answer: what did not change comes as the same bytes.

    Each look of an idle daemon lists interfaces and addresses a dozen times, and to parse takes longer than to ask.
    """

    def __init__(self, parse: Callable[[bytes], T]) -> None:
        self._parse = parse
        self._last: dict[bytes, T] = {}

    def __call__(self, messages: Iterable[bytes]) -> list[T]:
        # Threads, also those in other network namespaces, only take this from each other.
        last, now = self._last, dict[bytes, T]()
        for message in messages:
            found = last.get(message)
            now[message] = self._parse(message) if found is None else found
        self._last = now
        return list(now.values())


def read(namespace: int | None = None) -> tuple[LinkMessage, ...]:
    """Every interface of this network namespace, or of that which this one has the number for, by index.

    Raises OSError. Of another namespace since Linux 4.20.
    """
    request = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + word(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    if namespace is not None:
        request += word(IFLA_TARGET_NETNSID, namespace)
    found = _parsed_links(message for _flags, message in dump(RTM_GETLINK, request))
    return tuple(sorted(found, key=lambda one: one.index))


def read_one(index: int) -> LinkMessage:
    """The interface with that index. Raises OSError: ENODEV."""
    return parse(ask(RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)))


def read_addresses(namespace: int | None = None) -> tuple[AddressMessage, ...]:
    """Every address of a network namespace, as in `read`, IPv4 first, in the kernel's order. Raises OSError."""
    request = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    with opened() as end:
        if namespace is not None:
            # Without this the kernel ignores the number, and tells of its own namespace.
            end.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            request += word(IFA_TARGET_NETNSID, namespace)
        messages = [message for _flags, message in dump(RTM_GETADDR, request, over=end)]
    by_family = ([one for one in messages if one[0] == family] for family in FAMILY.values())
    return tuple(_parsed_addresses(message for found in by_family for message in found))


def read_neighbours(index: int, version: int) -> Iterator[tuple[IPAddress, str]]:
    """The neighbours of an interface and their link addresses, as far as these are known now. Raises OSError."""
    for _index, _state, found in dump_neighbours(FAMILY[version], {index}):
        if NDA_DST in found and NDA_LLADDR in found:
            yield address_of(found[NDA_DST]), found[NDA_LLADDR].hex(":")


def dump_neighbours(family: int, on: Container[int]) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Index, state and attributes of each neighbour on these interfaces; with AF_BRIDGE of each forwarding entry.

    Raises OSError.
    """
    for _flags, message in dump(RTM_GETNEIGH, NEIGHBOUR.pack(family, 0, 0, 0, 0)):
        _family, index, state, _neighbour_flags, _type = NEIGHBOUR.unpack_from(message)
        if index in on:
            yield index, state, attributes(message, NEIGHBOUR.size)


def address_of(data: bytes) -> IPAddress:
    """An address of four or sixteen bytes."""
    return IPv4Address(data) if len(data) == 4 else IPv6Address(data)


def mac_bytes(mac: str) -> bytes:
    """A MAC as the kernel has it."""
    return bytes.fromhex(mac.replace(":", ""))


def add(name: str, kind: str, *, mac: str | None = None, data: bytes = b"") -> None:
    """Make an interface; `data` are attributes of its kind. Raises OSError: EEXIST, EOPNOTSUPP for no such kind."""
    info = attribute(IFLA_INFO_KIND, kind.encode()) + (attribute(IFLA_INFO_DATA, data) if data else b"")
    request = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(IFLA_IFNAME, name)
    if mac is not None:
        request += attribute(IFLA_ADDRESS, mac_bytes(mac))
    change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, request + attribute(IFLA_LINKINFO, info))


def configure(index: int, *, mtu_bytes: int, alias: str, mac: str | None = None) -> None:
    """Change these of an interface; a MAC only where one is given. Raises OSError."""
    request = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    if mac is not None:
        request += attribute(IFLA_ADDRESS, mac_bytes(mac))
    change(RTM_NEWLINK, 0, request + word(IFLA_MTU, mtu_bytes) + attribute(IFLA_IFALIAS, alias.encode()))


def bring_up(index: int) -> None:
    """Switch an interface on. Raises OSError."""
    change(RTM_NEWLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP))


def delete(index: int) -> None:
    """Delete an interface. Raises OSError."""
    change(RTM_DELLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0))


def add_address(index: int, address: IPInterface) -> None:
    """Give an interface an address, also one that it has. Raises OSError."""
    # No other host can have it: no second of waiting for duplicate address detection (RFC 4862).
    change(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _own(index, address, IFA_F_NODAD if address.version == 6 else 0))


def delete_address(index: int, address: IPInterface) -> None:
    """Take an address from an interface. Raises OSError."""
    change(RTM_DELADDR, 0, _own(index, address, 0))


def _own(index: int, address: IPInterface, flags: int) -> bytes:
    head = _ADDRESS.pack(FAMILY[address.version], address.network.prefixlen, flags, 0, index)
    return head + attribute(IFA_LOCAL, address.ip.packed) + attribute(IFA_ADDRESS, address.ip.packed)


def index_of(message: bytes) -> int:
    """The index in a message about a link; 0 where it is cut short."""
    return int(_LINK.unpack_from(message)[2]) if len(message) >= _LINK.size else 0


def parse(message: bytes) -> LinkMessage:
    """One answer to RTM_GETLINK, without its header."""
    _family, hardware, index, flags, _change = _LINK.unpack_from(message)
    found = attributes(message, _LINK.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    mac = found.get(IFLA_ADDRESS)
    return LinkMessage(
        index=index,
        name=string(found.get(IFLA_IFNAME)) or "",
        flags=flags,
        mtu_bytes=number(found.get(IFLA_MTU)),
        mac=mac.hex(":") if mac else None,
        alias=string(found.get(IFLA_IFALIAS)),
        master=number(found.get(IFLA_MASTER)),
        peer=number(found.get(IFLA_LINK)),
        namespace=number(found[IFLA_LINK_NETNSID]) if IFLA_LINK_NETNSID in found else None,
        qdisc=string(found.get(IFLA_QDISC)),
        hardware=hardware,
        xdp=attributes(found.get(IFLA_XDP, b"")).get(IFLA_XDP_ATTACHED, b"\0") != b"\0",
        restricted=string(info.get(IFLA_INFO_PORT_KIND)) == "bridge"
        and _restricted(info.get(IFLA_INFO_PORT_DATA, b"")),
        kind=string(info.get(IFLA_INFO_KIND)),
        data=attributes(info.get(IFLA_INFO_DATA, b"")),
    )


def _restricted(data: bytes) -> bool:
    found = attributes(data)
    flags = (found.get(flag, b"\0") for flag in (IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LOCKED))
    return found.get(IFLA_BRPORT_STATE) != BR_STATE_FORWARDING or any(flag != b"\0" for flag in flags)


def _address(message: bytes) -> AddressMessage:
    family, length, flags, _scope, index = _ADDRESS.unpack_from(message)
    found = attributes(message, _ADDRESS.size)
    # Of a point-to-point interface, IFA_ADDRESS is the other end.
    packed = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    made: type[IPv4Interface | IPv6Interface] = IPv4Interface if family == FAMILY[4] else IPv6Interface
    return AddressMessage(
        index=index, address=made((packed, length)), flags=number(found.get(IFA_FLAGS)) if IFA_FLAGS in found else flags
    )


_parsed_links = _Parsed(parse)
_parsed_addresses = _Parsed(_address)

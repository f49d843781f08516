"""What the kernel says of interfaces and routes that are not ours. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from socket import AF_INET
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_TABLE_MAIN = 254
_DEAD_OR_DOWN = 0x1 | 0x10  # RTNH_F_DEAD, RTNH_F_LINKDOWN


@dataclass(frozen=True, kw_only=True)
class Interface:
    """One interface of this network namespace. `addresses` are IPv4, in the kernel's order."""

    name: str
    index: int
    mtu_bytes: int
    up: bool
    addresses: tuple[IPv4Interface, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RouteAnswer:
    """Where the kernel would send a packet: out of which interface, and from which address if it says so."""

    ifindex: int
    source: IPv4Address | None


def read_interfaces() -> tuple[Interface, ...]:
    """Every interface there is, by index."""
    with IPRoute() as ipr:
        links = list(ipr.get_links())
        found: dict[int, list[IPv4Interface]] = {}
        for message in ipr.get_addr(family=AF_INET):
            local = message.get("local") or message.get("address")
            found.setdefault(message["index"], []).append(IPv4Interface((local, message["prefixlen"])))
    interfaces = [
        Interface(
            name=message.get("ifname"),
            index=message["index"],
            mtu_bytes=message.get("mtu"),
            up=bool(message["flags"] & 1),
            addresses=tuple(found.get(message["index"], ())),
        )
        for message in links
    ]
    return tuple(sorted(interfaces, key=lambda interface: interface.index))


def interface_addresses(name: str) -> tuple[IPv4Interface, ...] | None:
    """The IPv4 addresses of one interface; None if there is no such interface."""
    for interface in read_interfaces():
        if interface.name == name:
            return interface.addresses
    return None


def route_to(address: IPv4Address) -> RouteAnswer | None:
    """How the kernel would reach an address; None if it has no route."""
    try:
        with IPRoute() as ipr:
            for message in ipr.route("get", dst=str(address)):
                return _answer(message)
    except NetlinkError:
        return None
    return None


def default_route() -> RouteAnswer | None:
    """The usable default route with the lowest metric; None if there is none."""
    with IPRoute() as ipr:
        found = [
            message
            for message in ipr.get_routes(family=AF_INET, table=_TABLE_MAIN)
            if message["dst_len"] == 0 and message.get("oif") and not message["flags"] & _DEAD_OR_DOWN
        ]
    if not found:
        return None
    return _answer(min(found, key=lambda message: message.get("priority") or 0))


def _answer(message: Any) -> RouteAnswer:
    source = message.get("prefsrc")
    return RouteAnswer(ifindex=message.get("oif"), source=IPv4Address(source) if source else None)

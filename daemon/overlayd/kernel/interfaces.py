"""This host's interfaces, bridges and routes, whosever they are. Reads only."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any, ParamSpec, TypeVar

from overlayd.errors import KernelRefused
from overlayd.kernel.foreign import BRIDGE, FLANNEL
from overlayd.kernel.pyroute import IPRoute, NetlinkError
from overlayd.lib.addresses import IPAddress, IPInterface, IPNetwork, ip_address, ip_interface
from overlayd.lib.marks import ALIASES, DEVICES

P = ParamSpec("P")
T = TypeVar("T")

_TABLE_MAIN = 254
_GUESTS = ("veth", "tun")
# The kinds of overlayd's and flannel's devices; and how Docker names the bridge of a network: by its id's first digits.
_DEVICES_OF_OVERLAYS = ("vxlan", "tun", "ipip", "wireguard")
_OF_DOCKER = re.compile("br-[0-9a-f]{12}")
_DEAD_OR_DOWN = 0x1 | 0x10  # RTNH_F_DEAD, RTNH_F_LINKDOWN
# linux/if_addr.h: IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED: IPv6 addresses that no host should publish.
_FLEETING = 0x01 | 0x08 | 0x20


@dataclass(frozen=True, kw_only=True)
class Interface:
    """One interface of this network namespace. `addresses` are of both families, in the kernel's order.

    IPv6 addresses that are temporary, deprecated or failed duplicate detection (RFC 4862) are left out. `carries` is
    None for an interface that may be the underlay; else it names what it is: a device of an overlay, a bridge of
    containers. `wireless`: it is a bridge without any port that leads to a wire.
    """

    name: str
    index: int
    mtu_bytes: int
    up: bool
    addresses: tuple[IPInterface, ...] = ()
    carries: str | None = None
    wireless: bool = False


@dataclass(frozen=True, kw_only=True)
class RouteAnswer:
    """Where the kernel would send a packet: out of which interface, and from which address if the route names one."""

    ifindex: int
    source: IPAddress | None


def _refused_as(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Raise KernelRefused where netlink refuses, or no socket can be opened; `what` names the operation."""

    def wrap(call: Callable[P, T]) -> Callable[P, T]:
        @wraps(call)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return call(*args, **kwargs)
            except NetlinkError as error:
                raise KernelRefused(what, "of this host", error.code) from error
            except OSError as error:
                raise KernelRefused(what, "of this host", error.errno or errno.EIO) from error

        return called

    return wrap


def read_interfaces() -> tuple[Interface, ...]:
    """Every interface there is, by index."""
    with IPRoute() as ipr:
        links = list(ipr.get_links())
        found: dict[int, list[IPInterface]] = {}
        for message in (*ipr.get_addr(family=AF_INET), *ipr.get_addr(family=AF_INET6)):
            flags = message.get("flags") or 0
            if message["family"] == AF_INET or not flags & _FLEETING:
                local = message.get("local") or message.get("address")
                found.setdefault(message["index"], []).append(ip_interface(f"{local}/{message['prefixlen']}"))
    bridges = _bridges(links)
    interfaces = [
        Interface(
            name=message.get("ifname"),
            index=message["index"],
            mtu_bytes=message.get("mtu"),
            up=bool(message["flags"] & 1),
            addresses=tuple(found.get(message["index"], ())),
            carries=_carries(message, links, bridges),
            wireless=message.get("ifname") in bridges.of_guests and _kind(message) == "bridge",
        )
        for message in links
    ]
    return tuple(sorted(interfaces, key=lambda interface: interface.index))


def ipv6_is_off(name: str) -> bool:
    """Whether IPv6 is switched off on an interface, or `all` of them (ip-sysctl.rst: disable_ipv6)."""
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").read_text().strip() == "1"
    except (OSError, ValueError):
        return False


@_refused_as("neighbour list")
def router_macs(ifname: str, peers: Collection[IPAddress]) -> tuple[str, ...]:
    """The link addresses of the gateways of an interface's routes, as far as the kernel knows them now.

    Without those that one of `peers` has too: the peer is the router, or the network shows one address for all hosts.
    Raises KernelRefused.
    """
    with IPRoute() as ipr:
        (index,) = ipr.link_lookup(ifname=ifname) or (0,)
        gateways = {
            ip_address(hop.get("gateway"))
            for family in (AF_INET, AF_INET6)
            for message in ipr.get_routes(family=family, table=_TABLE_MAIN)
            for hop in (message, *(message.get("multipath") or ()))
            if hop.get("oif") == index and hop.get("gateway")
        }
        known = [
            (ip_address(message.get("dst")), message.get("lladdr"))
            for family in (AF_INET, AF_INET6)
            for message in ipr.get_neighbours(family=family, ifindex=index)
            if message.get("dst") and message.get("lladdr")
        ]
    of_peers = {mac for address, mac in known if address in peers}
    return tuple(sorted({mac for address, mac in known if address in gateways and address not in peers} - of_peers))


@dataclass(frozen=True, kw_only=True)
class Bridges:
    """This host's bridges by name. `of_guests`: every port is an end of a pair (veth) or a virtual machine's (tun).

    `wired` have another port, which leads to a wire; or are no bridges, but named as Docker names its own: `br-ex` of
    Open vSwitch, a network card.
    """

    of_guests: tuple[str, ...]
    wired: tuple[str, ...]


@_refused_as("link list")
def read_bridges() -> Bridges:
    """Every bridge there is. Raises KernelRefused."""
    with IPRoute() as ipr:
        return _bridges(list(ipr.get_links()))


def _bridges(links: Collection[Any]) -> Bridges:
    kinds = {link["index"]: _kind(link) for link in links}
    wired = {link.get("master") for link in links if link.get("master") and kinds[link["index"]] not in _GUESTS}
    bridges = {link.get("ifname"): link["index"] for link in links if kinds[link["index"]] == "bridge"}
    of_guests = {name for name, index in bridges.items() if index not in wired}
    alike = {name for name in (link.get("ifname") for link in links) if name.startswith("br-")}
    return Bridges(of_guests=tuple(sorted(of_guests)), wired=tuple(sorted((bridges.keys() | alike) - of_guests)))


@_refused_as("address list")
def with_address_in(networks: Iterable[IPNetwork]) -> tuple[str, ...]:
    """The interfaces with an address in one of the networks, by index. Raises KernelRefused."""
    networks = tuple(networks)
    return tuple(
        one.name
        for one in read_interfaces()
        if any(address.ip in network for address in one.addresses for network in networks)
    )


def _carries(message: Any, links: Iterable[Any], bridges: Bridges) -> str | None:
    name, kind = message.get("ifname"), _kind(message)
    if message.get_attr("IFLA_IFALIAS") in ALIASES:
        return "a device of overlayd's own"
    if kind in _DEVICES_OF_OVERLAYS and name.startswith((DEVICES, FLANNEL)):
        return "a device of flannel's" if name.startswith(FLANNEL) else "a device of overlayd's own"
    if kind != "bridge" or name not in bridges.of_guests:
        return None
    if name == BRIDGE or _OF_DOCKER.fullmatch(name):
        return "a bridge of docker's"
    # Not a bridge of virtual machines: one of them may be a host of this network.
    ports = (one for one in links if one.get("master") == message["index"])
    elsewhere = any(_kind(one) == "veth" and one.get_attr("IFLA_LINK_NETNSID") is not None for one in ports)
    return "a bridge of containers'" if elsewhere else None


def _kind(link: Any) -> str | None:
    info = link.get_attr("IFLA_LINKINFO")
    kind: str | None = info.get_attr("IFLA_INFO_KIND") if info is not None else None
    return kind


def interface_addresses(name: str) -> tuple[IPInterface, ...] | None:
    """The addresses of one interface; None if there is no such interface."""
    for interface in read_interfaces():
        if interface.name == name:
            return interface.addresses
    return None


def own_addresses() -> frozenset[IPAddress]:
    """Every address that an interface of this host has."""
    return frozenset(address.ip for interface in read_interfaces() for address in interface.addresses)


def route_to(address: IPAddress) -> RouteAnswer | None:
    """How the kernel would reach an address; None if it has no route."""
    try:
        with IPRoute() as ipr:
            for message in ipr.route("get", dst=str(address)):
                return _answer(message)
    except NetlinkError:
        return None
    return None


def default_route() -> RouteAnswer | None:
    """The usable default route with the lowest metric, IPv4's before IPv6's; None if there is none."""
    with IPRoute() as ipr:
        for family in (AF_INET, AF_INET6):
            found = [
                message
                for message in ipr.get_routes(family=family, table=_TABLE_MAIN)
                if message["dst_len"] == 0 and message.get("oif") and not message["flags"] & _DEAD_OR_DOWN
            ]
            if found:
                return _answer(min(found, key=lambda message: message.get("priority") or 0))
    return None


def default_gateways() -> tuple[IPAddress, ...]:
    """The next hops of all default routes, of either family."""
    with IPRoute() as ipr:
        found = [
            hop.get("gateway")
            for family in (AF_INET, AF_INET6)
            for message in ipr.get_routes(family=family, table=_TABLE_MAIN)
            if message["dst_len"] == 0
            for hop in (message, *(message.get("multipath") or ()))
        ]
    return tuple(ip_address(one) for one in dict.fromkeys(found) if one)


def _answer(message: Any) -> RouteAnswer:
    source = message.get("prefsrc")
    return RouteAnswer(ifindex=message.get("oif"), source=ip_address(source) if source else None)

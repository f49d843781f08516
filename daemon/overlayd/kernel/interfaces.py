"""This host's interfaces, bridges and routes, whosever they are. Reads only."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Callable, Collection, Iterable
from functools import cached_property, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from overlayd.errors import KernelRefused
from overlayd.kernel import links, routes
from overlayd.kernel.foreign import BRIDGE, FLANNEL, ForeignRoute
from overlayd.kernel.links import LinkMessage
from overlayd.kernel.routes import MainRoute
from overlayd.lib.addresses import IPAddress, IPInterface, IPNetwork
from overlayd.lib.marks import ALIASES, DEVICES
from overlayd.lib.quick_dataclass import dataclass

P = ParamSpec("P")
T = TypeVar("T")

# linux/if_link.h
IFLA_BR_VLAN_FILTERING = 7
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
    """Raise KernelRefused where netlink refuses; `what` names the operation."""

    def wrap(call: Callable[P, T]) -> Callable[P, T]:
        @wraps(call)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return call(*args, **kwargs)
            except OSError as error:
                raise KernelRefused(what, "of this host", error.errno or errno.EIO) from error

        return called

    return wrap


@dataclass(frozen=True, kw_only=True)
class InterfaceList:
    """Every interface there was at one moment, by index, and the bridges among them."""

    all: tuple[Interface, ...]
    bridges: Bridges

    def with_address_in(self, networks: Iterable[IPNetwork]) -> tuple[str, ...]:
        """The interfaces with an address in one of the networks, by index."""
        networks = tuple(networks)
        return tuple(
            one.name
            for one in self.all
            if any(address.ip in network for address in one.addresses for network in networks)
        )

    def addresses_of(self, name: str) -> tuple[IPInterface, ...] | None:
        """The addresses of one interface; None if there is no such interface."""
        return next((one.addresses for one in self.all if one.name == name), None)

    @cached_property
    def addresses(self) -> frozenset[IPAddress]:
        """Every address that an interface of this host has."""
        return frozenset(address.ip for one in self.all for address in one.addresses)


@_refused_as("link list")
def read_list() -> InterfaceList:
    """The interfaces as they are now. Raises KernelRefused."""
    there = links.read()
    return InterfaceList(all=_interfaces(there), bridges=_bridges(there))


def read_interfaces() -> tuple[Interface, ...]:
    """Every interface there is, by index."""
    return _interfaces(links.read())


def _interfaces(there: tuple[LinkMessage, ...]) -> tuple[Interface, ...]:
    found: dict[int, list[IPInterface]] = {}
    for one in links.read_addresses():
        if one.address.version == 4 or not one.flags & _FLEETING:
            found.setdefault(one.index, []).append(one.address)
    bridges = _bridges(there)
    return tuple(
        Interface(
            name=link.name,
            index=link.index,
            mtu_bytes=link.mtu_bytes,
            up=link.up,
            addresses=tuple(found.get(link.index, ())),
            carries=_carries(link, there, bridges),
            wireless=link.name in bridges.of_guests and link.kind == "bridge",
        )
        for link in there
    )


@_refused_as("link get")
def read_link(name: str) -> LinkMessage:
    """The interface with that name. Raises KernelRefused."""
    return links.read_one(socket.if_nametoindex(name))


def bypassed_at(link: LinkMessage) -> str | None:
    """What an administrator put at an interface that is not hardware, as the end of a sentence; None without any.

    That is what has a say about packets by it; filters are read elsewhere (attached.py). Of such interfaces the kernel
    gives a queueing discipline to TUN devices only: what net.core.default_qdisc says.
    """
    usual: set[str | None] = {"noqueue", "noop", None}
    if link.kind == "tun":
        usual |= {"pfifo_fast", "fq_codel"}
        # A network namespace has no such file.
        with contextlib.suppress(OSError):
            usual.add(Path("/proc/sys/net/core/default_qdisc").read_text().strip())
    if link.qdisc not in usual:
        return f"the queueing discipline of {link.name}: see tc qdisc"
    if link.xdp:
        return f"the XDP program of {link.name}: see ip link"
    if link.kind == "bridge" and link.data.get(IFLA_BR_VLAN_FILTERING, b"\0") != b"\0":
        return f"the VLANs of {link.name}: see bridge vlan"
    return None


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
    try:
        index = socket.if_nametoindex(ifname)
    except OSError:
        return ()
    gateways = {
        hop.gateway
        for version in (4, 6)
        for route in routes.read_main(version)
        for hop in route.hops
        if hop.ifindex == index and hop.gateway
    }
    known = [one for version in (4, 6) for one in links.read_neighbours(index, version)]
    of_peers = {mac for address, mac in known if address in peers}
    return tuple(sorted({mac for address, mac in known if address in gateways and address not in peers} - of_peers))


@_refused_as("route list")
def foreign_routes(network: IPNetwork) -> tuple[ForeignRoute, ...]:
    """The routes of others, as foreign.py has it, inside a network. Raises KernelRefused."""
    names = dict(socket.if_nameindex())
    return tuple(routes.read(network.version, names, [network])[1])


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
    return _bridges(links.read())


def _bridges(there: Collection[LinkMessage]) -> Bridges:
    kinds = {link.index: link.kind for link in there}
    wired = {link.master for link in there if link.master and kinds[link.index] not in _GUESTS}
    of_guests = {link.name for link in there if link.kind == "bridge" and link.index not in wired}
    bridges = {link.name for link in there if link.kind == "bridge"}
    alike = {link.name for link in there if link.name.startswith("br-")}
    return Bridges(of_guests=tuple(sorted(of_guests)), wired=tuple(sorted((bridges | alike) - of_guests)))


def with_address_in(networks: Iterable[IPNetwork]) -> tuple[str, ...]:
    """The interfaces with an address in one of the networks, by index. Raises KernelRefused."""
    return read_list().with_address_in(networks)


def _carries(link: LinkMessage, there: Iterable[LinkMessage], bridges: Bridges) -> str | None:
    if link.alias in ALIASES:
        return "a device of overlayd's own"
    if link.kind in _DEVICES_OF_OVERLAYS and link.name.startswith((DEVICES, FLANNEL)):
        return "a device of flannel's" if link.name.startswith(FLANNEL) else "a device of overlayd's own"
    if link.kind != "bridge" or link.name not in bridges.of_guests:
        return None
    if link.name == BRIDGE or _OF_DOCKER.fullmatch(link.name):
        return "a bridge of docker's"
    # Not a bridge of virtual machines: one of them may be a host of this network.
    elsewhere = any(one.kind == "veth" and one.elsewhere for one in there if one.master == link.index)
    return "a bridge of containers'" if elsewhere else None


def interface_addresses(name: str) -> tuple[IPInterface, ...] | None:
    """The addresses of one interface; None if there is no such interface."""
    return read_list().addresses_of(name)


def own_addresses() -> frozenset[IPAddress]:
    """Every address that an interface of this host has."""
    return read_list().addresses


def route_to(address: IPAddress) -> RouteAnswer | None:
    """How the kernel would reach an address; None if it has no route."""
    try:
        found = routes.ask(address)
    except OSError:
        return None
    return _answer(found) if found.hops else None


def default_route() -> RouteAnswer | None:
    """The usable default route with the lowest metric, IPv4's before IPv6's; None if there is none."""
    for version in (4, 6):
        found = [
            route
            for route in routes.read_main(version, length=0)
            if route.hops and route.hops[0].ifindex and not route.flags & _DEAD_OR_DOWN
        ]
        if found:
            return _answer(min(found, key=lambda route: route.metric))
    return None


def default_gateways() -> tuple[IPAddress, ...]:
    """The next hops of all default routes, of either family."""
    hops = (hop for version in (4, 6) for route in routes.read_main(version, length=0) for hop in route.hops)
    return tuple(dict.fromkeys(hop.gateway for hop in hops if hop.gateway))


def _answer(route: MainRoute) -> RouteAnswer:
    return RouteAnswer(ifindex=route.hops[0].ifindex, source=route.source)

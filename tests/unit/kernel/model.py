"""A model of what Linux does with our operations, and with what others do meanwhile. Pure: values in, values out.

Stricter than the kernel in one thing: to add what is there, or to delete or change what is not, is an error here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.state import (
    Address,
    FdbEntry,
    IpipLink,
    KernelObject,
    KernelState,
    Link,
    Neighbour,
    Route,
    VxlanLink,
    WireguardLink,
    WireguardPeer,
)
from overlayd.lib.addresses import IPInterface, contains

T = TypeVar("T", bound=KernelObject)
Key = tuple[type[KernelObject] | str, Hashable]

LONGEST_NAME = 15  # IFNAMSIZ less the zero byte


class Refused(AssertionError):
    """The kernel would not do that."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A link that is not ours: its addresses make next hops reachable."""

    name: str
    mtu_bytes: int
    addresses: tuple[IPInterface, ...] = ()
    vni: int | None = None
    port: int | None = None
    up: bool = True


@dataclass(frozen=True, kw_only=True)
class LinkGone:
    """Somebody deletes a link of ours."""

    link: str


@dataclass(frozen=True, kw_only=True)
class LinkSet:
    """Somebody takes a link down, or brings it up, ours or not. A foreign link gets its addresses back when up."""

    link: str
    up: bool


@dataclass(frozen=True, kw_only=True)
class MacSet:
    """Somebody gives a link of ours another MAC."""

    link: str
    mac: str


Event = LinkGone | LinkSet | MacSet | Operation


@dataclass
class Kernel:
    """One host's links, and all that stands on them. `foreign` routes are in the main table too, without our mark."""

    interfaces: dict[str, Interface]
    links: dict[str, Link] = field(default_factory=dict)
    objects: dict[Key, KernelObject] = field(default_factory=dict)
    foreign: dict[Hashable, Route] = field(default_factory=dict)

    def copy(self) -> Kernel:
        """Another one in the same state."""
        return Kernel(dict(self.interfaces), dict(self.links), dict(self.objects), dict(self.foreign))

    def ours(self) -> KernelState:
        """What `netlink.read` would say."""
        return KernelState(frozenset([*self.links.values(), *self.objects.values()]))

    def happen(self, event: Event) -> None:
        """Let somebody do something. Raises Refused."""
        match event:
            case Operation():
                self.apply(event)
            case LinkGone(link=name):
                self._delete_link(name)
            case LinkSet(link=name, up=up):
                self._set_up(name, up=up)
            case MacSet(link=name, mac=mac):
                link = self.links[name]
                assert isinstance(link, VxlanLink)
                self._change_link(replace(link, mac=mac))
                self._forget_neighbours(name)

    def apply(self, operation: Operation) -> None:
        """Carry out one operation. Raises Refused."""
        item, verb = operation.object, operation.verb
        if isinstance(item, Link):
            {
                OperationKind.ADD: self._add_link,
                OperationKind.CHANGE: self._change_link,
                OperationKind.DELETE: self._delete_same,
            }[verb](item)
            return
        key: Key = (type(item), item.key)
        if verb is OperationKind.DELETE:
            there = self.objects.get(key)
            # A WireGuard peer may have lost its subnets to another meanwhile.
            if there != item and not (isinstance(item, WireguardPeer) and there is not None):
                raise Refused(f"{operation}: there is {there}")
            del self.objects[key]
            if isinstance(item, Address):
                self._drop(lambda one: isinstance(one, Route) and one.src == item.address.ip)
                self._disable_ipv4_without_address(item.link)
            return
        others = isinstance(item, Route) and item.key in self.foreign
        if (key in self.objects or others) != (verb is OperationKind.CHANGE):
            raise Refused(f"{operation}: there is {self.objects.get(key)}")
        self._check(operation)
        self.objects[key] = item
        match item:
            case Route():
                # Whoever changes what another has put there takes it over.
                self.foreign.pop(item.key, None)
            case WireguardPeer():
                self._take_allowed_ips(item)

    def _all(self, kind: type[T]) -> frozenset[T]:
        return frozenset(item for item in self.objects.values() if isinstance(item, kind))

    def _check(self, operation: Operation) -> None:
        """Raise Refused where the kernel would have an error for an addition or change."""
        match operation.object:
            case Route() as route:
                self._check_route(operation, route)
            case Address() as address if address.link not in self.links:
                raise Refused(f"{operation}: no such link")
            case Neighbour() as neighbour if neighbour.link not in self.links:
                raise Refused(f"{operation}: no such link")
            case WireguardPeer() as peer if not isinstance(self.links.get(peer.link), WireguardLink):
                raise Refused(f"{operation}: no such WireGuard link")
            case FdbEntry() as entry:
                link = self.links.get(entry.link)
                if not isinstance(link, VxlanLink):
                    raise Refused(f"{operation}: no such VXLAN link")
                if link.local.version != entry.dst.version:
                    raise Refused(f"{operation}: of another family than {link}")

    def _check_route(self, operation: Operation, route: Route) -> None:
        if route.src is not None and route.src not in (one.ip for one in self._addresses()):
            raise Refused(f"{operation}: {route.src} is no address of this host")
        if route.link is None:
            return
        if not self._is_up(route.link):
            raise Refused(f"{operation}: {route.link} is down or not there")
        if route.via is None:
            return
        if any(route.via == one.ip for one in self._addresses()):
            raise Refused(f"{operation}: the next hop is this host")
        near = self.interfaces[route.link].addresses if route.link in self.interfaces else ()
        if not route.onlink and not any(contains(one.network, route.via) for one in near):
            raise Refused(f"{operation}: the next hop is not on link")

    def _addresses(self) -> Iterator[IPInterface]:
        for interface in self.interfaces.values():
            yield from interface.addresses
        for address in self._all(Address):
            yield address.address

    def _is_up(self, name: str) -> bool:
        found = self.links.get(name) or self.interfaces.get(name)
        return found is not None and found.up

    def _add_link(self, link: Link) -> None:
        if link.name in self.links or link.name in self.interfaces:
            raise Refused(f"{link}: there is one of that name")
        if len(link.name) > LONGEST_NAME:
            raise Refused(f"{link}: the name is too long")
        match link:
            case VxlanLink():
                self._check_vxlan(link)
            case IpipLink() if any(
                isinstance(one, IpipLink) and one.local == link.local for one in self.links.values()
            ):
                raise Refused(f"{link}: another has its local address, and no remote either")
            case WireguardLink():
                self._check_port(link)
        self.links[link.name] = link

    def _check_vxlan(self, link: VxlanLink) -> None:
        underlay = self.interfaces.get(link.underlay)
        if underlay is None:
            raise Refused(f"{link}: no such underlay")
        if link.mtu_bytes > underlay.mtu_bytes - (50 if link.local.version == 4 else 70):
            raise Refused(f"{link}: MTU {link.mtu_bytes} on {underlay}")
        others = [(one.vni, one.port, one.local.version, one.gbp) for one in self._vxlans()]
        others += [(one.vni, one.port, 4, False) for one in self.interfaces.values() if one.vni and one.port]
        for vni, port, version, gbp in others:
            # vxlan_vni_in_use(); and one socket a port and family, whose flags (VXLAN_F_RCV_FLAGS) all must share.
            if (port, version) == (link.port, link.local.version) and (vni == link.vni or gbp != link.gbp):
                raise Refused(f"{link}: another has its VNI, or its port with another GBP")

    def _check_port(self, link: WireguardLink) -> None:
        for other in self.links.values():
            if isinstance(other, WireguardLink) and other.name != link.name and other.listen_port == link.listen_port:
                raise Refused(f"{link}: {other} has its port")

    def _take_allowed_ips(self, peer: WireguardPeer) -> None:
        """What one peer of a device may send from, no other may: the last that asked has it."""
        for key, other in list(self.objects.items()):
            if isinstance(other, WireguardPeer) and other.link == peer.link and other.key != peer.key:
                self.objects[key] = replace(other, allowed_ips=other.allowed_ips - peer.allowed_ips)

    def _vxlans(self) -> Iterator[VxlanLink]:
        return (link for link in self.links.values() if isinstance(link, VxlanLink))

    def _change_link(self, link: Link) -> None:
        there = self.links.get(link.name)
        if there is None:
            raise Refused(f"{link}: not there")
        changed: Link = replace(there, mtu_bytes=link.mtu_bytes, up=link.up)
        if isinstance(there, VxlanLink) and isinstance(link, VxlanLink):
            changed = replace(there, mtu_bytes=link.mtu_bytes, up=link.up, mac=link.mac)
            if there.mac != link.mac:
                self._forget_neighbours(link.name)
        if isinstance(there, WireguardLink) and isinstance(link, WireguardLink):
            self._check_port(link)
            changed = link
        if changed != link:
            raise Refused(f"{link}: cannot be made of {there}")
        self.links[link.name] = link

    def _forget_neighbours(self, name: str) -> None:
        """What setting a MAC does, be it the one that was there (neigh_changeaddr); our own code sets another only."""
        self._drop(lambda one: isinstance(one, Neighbour) and one.link == name)

    def _disable_ipv4_without_address(self, name: str) -> None:
        """A link that loses its last IPv4 address loses its IPv4 routes and neighbours (fib_disable_ip)."""
        if not any(one.link == name and one.address.version == 4 for one in self._all(Address)):
            self._drop(lambda one: isinstance(one, Route) and one.link == name and one.dst.version == 4)
            self._drop(lambda one: isinstance(one, Neighbour) and one.link == name and one.address.version == 4)

    def _delete_same(self, link: Link) -> None:
        if self.links.get(link.name) != link:
            raise Refused(f"link delete {link}: there is {self.links.get(link.name)}")
        self._delete_link(link.name)

    def _delete_link(self, name: str) -> None:
        if self.links.pop(name, None) is None:
            raise Refused(f"link delete {name}: not there")
        self._drop(lambda one: getattr(one, "link", None) == name)

    def _set_up(self, name: str, *, up: bool) -> None:
        if name in self.links:
            self.links[name] = replace(self.links[name], up=up)
        else:
            self.interfaces[name] = replace(self.interfaces[name], up=up)
        if not up:
            # Routes and neighbours go, and IPv6 addresses (keep_addr_on_down is off); FDB entries stay.
            self._drop(lambda one: isinstance(one, Route | Neighbour) and one.link == name)
            self._drop(lambda one: isinstance(one, Address) and one.link == name and one.address.version == 6)
            self.foreign = {key: route for key, route in self.foreign.items() if route.link != name}

    def _drop(self, which: object) -> None:
        assert callable(which)
        self.objects = {key: item for key, item in self.objects.items() if not which(item)}


def holding(interfaces: Iterable[Interface], state: KernelState) -> Kernel:
    """A kernel that holds this already."""
    kernel = Kernel({interface.name: interface for interface in interfaces})
    for item in state.objects:
        if isinstance(item, Link):
            kernel.links[item.name] = item
        else:
            kernel.objects[type(item), item.key] = item
    return kernel

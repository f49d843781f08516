"""Which interface and address peers reach this host by.

Flannel's order: an interface given by address or name; then expressions, on addresses first and names second; then the
route to an address; then the interface that has the public address; then the default route.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from overlayd.errors import ConfigError
from overlayd.kernel import interfaces as kernel
from overlayd.kernel.interfaces import Interface, RouteAnswer


@dataclass(frozen=True, kw_only=True)
class Underlay:
    """The interface that carries the overlay's packets.

    `address` is on the interface; `public_ip` is what peers send to, and differs behind NAT. `reason` says why this one
    was taken. `on_link` are the networks whose hosts are reached without a router.
    """

    ifname: str
    ifindex: int
    address: IPv4Address
    public_ip: IPv4Address
    mtu_bytes: int
    reason: str
    on_link: tuple[IPv4Network, ...] = ()

    def reaches_directly(self, peer: IPv4Address) -> bool:
        """Whether a peer is on a network of the underlay's own, so that a plain route can name it as the next hop."""
        return any(peer in network for network in self.on_link)


def choose(
    *, ifaces: Sequence[str], iface_regexes: Sequence[str], can_reach: str | None, public_ip: str | None
) -> Underlay:
    """The underlay that these settings ask for, on this host as it is now. Raises ConfigError."""
    target = None if can_reach is None else _address("iface-can-reach", can_reach)
    return pick(
        kernel.read_interfaces(),
        ifaces=ifaces,
        iface_regexes=iface_regexes,
        reached=None if target is None else (target, kernel.route_to(target)),
        default=kernel.default_route(),
        public_ip=None if public_ip is None else _address("public-ip", public_ip),
    )


def pick(
    interfaces: Sequence[Interface],
    *,
    ifaces: Sequence[str] = (),
    iface_regexes: Sequence[str] = (),
    reached: tuple[IPv4Address, RouteAnswer | None] | None = None,
    default: RouteAnswer | None = None,
    public_ip: IPv4Address | None = None,
) -> Underlay:
    """The choice itself, over values. Pure. Raises ConfigError that lists the interfaces there are."""
    there = f"this host has {_listed(interfaces)}"
    if ifaces or iface_regexes:
        found = _given(interfaces, ifaces) or _matching(interfaces, iface_regexes)
        if found is None:
            asked = " or ".join([*(f"iface {name}" for name in ifaces), *(f"iface-regex {e}" for e in iface_regexes)])
            raise ConfigError(f"no interface fits {asked}", hint=there)
    elif reached is not None:
        target, answer = reached
        found = _of_route(interfaces, answer, f"the route to {target}")
        if found is None:
            raise ConfigError(f"iface-can-reach {target}: there is no route to it", hint=there)
    else:
        found = _holding(interfaces, public_ip) or _of_route(interfaces, default, "the default route")
        if found is None:
            raise ConfigError("there is no default route, and so no interface to choose", hint=f"set iface; {there}")
    interface, own, reason = found
    address = own or _first_address(interface)
    if address is None:
        raise ConfigError(
            f"interface {interface.name} ({reason}) has no IPv4 address", hint=f"give it one, or set iface; {there}"
        )
    return Underlay(
        ifname=interface.name,
        ifindex=interface.index,
        address=address,
        public_ip=public_ip or address,
        mtu_bytes=interface.mtu_bytes,
        reason=reason,
        on_link=tuple(a.network for a in interface.addresses if a.network.prefixlen < 32),
    )


_Found = tuple[Interface, IPv4Address | None, str]


def _given(interfaces: Sequence[Interface], ifaces: Sequence[str]) -> _Found | None:
    for name in ifaces:
        for interface in interfaces:
            for address in interface.addresses:
                if str(address.ip) == name:
                    return interface, address.ip, f"iface {name}"
            if interface.name == name:
                return interface, None, f"iface {name}"
    return None


def _matching(interfaces: Sequence[Interface], expressions: Sequence[str]) -> _Found | None:
    for text in expressions:
        try:
            expression = re.compile(text)
        except re.error as error:
            raise ConfigError(f"iface-regex {text!r} is not an expression: {error}") from error
        for interface in interfaces:
            for address in interface.addresses:
                if expression.search(str(address.ip)):
                    return interface, address.ip, f"iface-regex {text} matches {address.ip}"
        for interface in interfaces:
            if expression.search(interface.name):
                return interface, None, f"iface-regex {text} matches {interface.name}"
    return None


def _holding(interfaces: Sequence[Interface], public_ip: IPv4Address | None) -> _Found | None:
    for interface in interfaces:
        for address in interface.addresses:
            if address.ip == public_ip:
                return interface, address.ip, f"it has public-ip {public_ip}"
    return None


def _of_route(interfaces: Sequence[Interface], answer: RouteAnswer | None, reason: str) -> _Found | None:
    for interface in interfaces:
        if answer is not None and interface.index == answer.ifindex:
            return interface, answer.source, reason
    return None


def _first_address(interface: Interface) -> IPv4Address | None:
    addresses = [address.ip for address in interface.addresses]
    routable = [address for address in addresses if not address.is_link_local and not address.is_loopback]
    return next(iter([*routable, *addresses]), None)


def _listed(interfaces: Sequence[Interface]) -> str:
    def one(interface: Interface) -> str:
        addresses: Sequence[IPv4Interface] = interface.addresses
        return f"{interface.name} ({', '.join(str(a.ip) for a in addresses) or 'no IPv4 address'})"

    return ", ".join(one(interface) for interface in interfaces if interface.name != "lo") or "no interface but lo"


def _address(setting: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise ConfigError(f"{setting} is {text!r}", hint="allowed: an IPv4 address") from None

"""Which interface and address peers reach this host by.

Flannel's order: an interface given by address or name; then expressions, on addresses first and names second; then the
route to an address; then the interface that has the public address; then the default route. An interface that carries
an overlay or containers is never the underlay, also when it is named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import field, replace

from overlayd.errors import ConfigError
from overlayd.kernel import interfaces as kernel
from overlayd.kernel.interfaces import Interface, RouteAnswer
from overlayd.lib.addresses import IPAddress, IPNetwork, contains, ip_address
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class UnderlayEndpoint:
    """Where peers reach this host in one address family.

    `address` is on the interface; `public_ip` is what peers send to, and differs behind NAT. `on_link` are the networks
    whose hosts are reached without a router.
    """

    address: IPAddress
    public_ip: IPAddress
    on_link: tuple[IPNetwork, ...] = ()

    def reaches_directly(self, peer: IPAddress) -> bool:
        """Whether a peer is on a network of the underlay's own, so that a plain route can name it as the next hop."""
        return any(contains(network, peer) for network in self.on_link)


@dataclass(frozen=True, kw_only=True)
class Underlay:
    """The interface that carries the overlay's packets, with at least one family's endpoint.

    `reason` says why this interface was taken. `without_ipv6`: IPv6 is switched off on it (disable_ipv6).
    """

    ifname: str
    ifindex: int
    mtu_bytes: int
    reason: str
    v4: UnderlayEndpoint | None = None
    v6: UnderlayEndpoint | None = None
    without_ipv6: bool = field(default=False, compare=False)

    def endpoint(self, version: int) -> UnderlayEndpoint | None:
        """The endpoint of IP version 4 or 6, if there is one."""
        return self.v4 if version == 4 else self.v6

    def lacks(self, version: int) -> str:
        """Why it has no address of an IP version, as the end of a sentence, where that is known."""
        if version == 4 or not self.without_ipv6:
            return ""
        sysctl = f"net/ipv6/conf/{self.ifname}/disable_ipv6"
        return f": IPv6 is switched off there; sysctl -w {sysctl}=0, then give it its address again"

    def only(self, versions: Collection[int]) -> Underlay:
        """The same without the endpoints of other IP versions than these."""
        return replace(self, v4=self.v4 if 4 in versions else None, v6=self.v6 if 6 in versions else None)

    @property
    def endpoints(self) -> tuple[UnderlayEndpoint, ...]:
        """The endpoints there are, IPv4 first."""
        return tuple(endpoint for endpoint in (self.v4, self.v6) if endpoint is not None)


def choose(
    *,
    ifaces: Sequence[str],
    iface_regexes: Sequence[str],
    can_reach: str | None,
    public_ip: IPAddress | None,
    public_ipv6: IPAddress | None,
    held: Collection[IPNetwork] = (),
) -> Underlay:
    """The underlay that these settings ask for, on this host as it is now. Raises ConfigError.

    A bridge on a subnet that this host `held` when it last ran is its containers', whatever its name.
    """
    target = None if can_reach is None else _address("iface-can-reach", can_reach)
    default = kernel.default_route()
    found = pick(
        [_noting_bridge(interface, held, default) for interface in kernel.read_interfaces()],
        ifaces=ifaces,
        iface_regexes=iface_regexes,
        reached=None if target is None else (target, kernel.route_to(target)),
        default=default,
        public_ip=public_ip,
        public_ipv6=public_ipv6,
    )
    return replace(found, without_ipv6=kernel.ipv6_is_off(found.ifname))


def _noting_bridge(interface: Interface, held: Collection[IPNetwork], default: RouteAnswer | None) -> Interface:
    """The interface; `carries` says so if it is the bridge of this host's containers, which cannot be the underlay."""
    if interface.wireless and default is not None and interface.index == default.ifindex:
        # A bridge with the default route is the way out: on a host that is a container, its own eth0 is a port of it.
        return replace(interface, carries=None)
    for address in interface.addresses if interface.wireless and not interface.carries else ():
        if any(contains(subnet, address.ip) for subnet in held):
            return replace(interface, carries="the bridge of this host's containers")
    return interface


def follow(before: Underlay, interfaces: Sequence[Interface]) -> Underlay | None:
    """The same interface as it is now, perhaps renamed; None if it is gone or lost an address. Pure."""
    for interface in interfaces:
        there = {address.ip for address in interface.addresses}
        if interface.index == before.ifindex and all(endpoint.address in there for endpoint in before.endpoints):
            return replace(
                before,
                ifname=interface.name,
                mtu_bytes=interface.mtu_bytes,
                v4=_with_on_link(before.v4, interface),
                v6=_with_on_link(before.v6, interface),
            )
    return None


def _with_on_link(endpoint: UnderlayEndpoint | None, interface: Interface) -> UnderlayEndpoint | None:
    return endpoint and replace(endpoint, on_link=_on_link(interface, endpoint.address.version))


def pick(
    interfaces: Sequence[Interface],
    *,
    ifaces: Sequence[str] = (),
    iface_regexes: Sequence[str] = (),
    reached: tuple[IPAddress, RouteAnswer | None] | None = None,
    default: RouteAnswer | None = None,
    public_ip: IPAddress | None = None,
    public_ipv6: IPAddress | None = None,
) -> Underlay:
    """Choose the underlay among `interfaces`. Pure. Raises ConfigError, which lists the interfaces that there are."""
    there = f"this host has {_listed(interfaces)}"
    found = _by_name_or_address(interfaces, ifaces)
    if found is not None and found[0].carries:
        raise ConfigError(f"{found[2]} cannot be the underlay: {found[0].name} is {found[0].carries}", hint=there)
    others = interfaces
    interfaces = [interface for interface in interfaces if not interface.carries]
    found = found or _by_regex(interfaces, iface_regexes)
    if found is None and reached is not None:
        # Also where neither iface nor iface-regex fits, as with flannel.
        target, answer = reached
        found = _by_route(interfaces, answer, f"the route to {target}")
        if found is None:
            by = _by_route(others, answer, "")
            raise ConfigError(
                f"iface-can-reach {target}: "
                + (f"the route to it is by {by[0].name}, {by[0].carries}" if by else "there is no route to it"),
                hint=there,
            )
    elif found is None and (ifaces or iface_regexes):
        given = " or ".join([*(f"iface {name}" for name in ifaces), *(f"iface-regex {e}" for e in iface_regexes)])
        unfit = _by_regex([interface for interface in others if interface.carries], iface_regexes)
        raise ConfigError(
            f"no interface fits {given}" + (f": {unfit[0].name} is {unfit[0].carries}" if unfit else ""), hint=there
        )
    elif found is None:
        found = (
            _with_address(interfaces, "public-ip", public_ip)
            or _with_address(interfaces, "public-ipv6", public_ipv6)
            or _by_route(interfaces, default, "the default route")
        )
        if found is None:
            raise ConfigError("there is no default route, and so no interface to choose", hint=f"set iface; {there}")
    interface, own, reason = found
    v4 = _endpoint(interface, 4, own, public_ip)
    v6 = _endpoint(interface, 6, own, public_ipv6)
    if v4 is None and v6 is None:
        raise ConfigError(
            f"interface {interface.name} ({reason}) has no address that others could send to",
            hint=f"give it one, or set iface; {there}",
        )
    return Underlay(
        ifname=interface.name,
        ifindex=interface.index,
        mtu_bytes=interface.mtu_bytes,
        reason=reason,
        v4=v4,
        v6=v6,
    )


def _endpoint(
    interface: Interface, version: int, own: IPAddress | None, public_ip: IPAddress | None
) -> UnderlayEndpoint | None:
    addresses = [one.ip for one in interface.addresses if one.version == version]
    if own is None and public_ip in addresses:
        # Peers accept packets from the published address alone.
        own = public_ip
    if own is None or own.version != version:
        # An IPv6 link-local address serves nobody: it means something else on every link.
        usable = [one for one in addresses if not one.is_link_local and not one.is_loopback]
        fallback = addresses if version == 4 else []
        own = next(iter([*usable, *fallback]), None)
    if own is None:
        return None
    return UnderlayEndpoint(address=own, public_ip=public_ip or own, on_link=_on_link(interface, version))


def _on_link(interface: Interface, version: int) -> tuple[IPNetwork, ...]:
    return tuple(
        one.network
        for one in interface.addresses
        if one.version == version and one.network.prefixlen < one.max_prefixlen and not one.is_link_local
    )


_Found = tuple[Interface, IPAddress | None, str]


def _by_name_or_address(interfaces: Sequence[Interface], ifaces: Sequence[str]) -> _Found | None:
    for name in ifaces:
        for interface in interfaces:
            for address in interface.addresses:
                if address.ip == _maybe_address(name):
                    return interface, address.ip, f"iface {name}"
            if interface.name == name:
                return interface, None, f"iface {name}"
    return None


def _by_regex(interfaces: Sequence[Interface], expressions: Sequence[str]) -> _Found | None:
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


def _with_address(interfaces: Sequence[Interface], setting: str, public_ip: IPAddress | None) -> _Found | None:
    for interface in interfaces:
        for address in interface.addresses:
            if address.ip == public_ip:
                return interface, address.ip, f"it has {setting} {public_ip}"
    return None


def _by_route(interfaces: Sequence[Interface], answer: RouteAnswer | None, reason: str) -> _Found | None:
    for interface in interfaces:
        if answer is not None and interface.index == answer.ifindex:
            return interface, answer.source, reason
    return None


def _listed(interfaces: Sequence[Interface]) -> str:
    def one(interface: Interface) -> str:
        addresses = [str(address.ip) for address in interface.addresses if not address.is_link_local]
        return f"{interface.name} ({', '.join(addresses) or 'no address'})"

    return ", ".join(one(interface) for interface in interfaces if interface.name != "lo") or "no interface but lo"


def _maybe_address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _address(setting: str, text: str) -> IPAddress:
    address = _maybe_address(text)
    if address is None:
        raise ConfigError(f"{setting} is {text!r}", hint="allowed: an IP address")
    return address

"""Netlink: read what has our mark, carry out operations, and remove everything again.

Every function opens a socket of its own and closes it, so any thread may call any of them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from itertools import groupby
from pathlib import Path

from overlayd.errors import KernelRefused
from overlayd.kernel import advertisements, batch, decode, links, modules, routes, tun
from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.foreign import ForeignRoute
from overlayd.kernel.messages import attribute, byte, word
from overlayd.kernel.refused import refused
from overlayd.kernel.state import (
    FORWARDING,
    FORWARDING6,
    Address,
    IpipLink,
    KernelObject,
    KernelState,
    Link,
    Route,
    Sysctl,
    TunLink,
    VxlanLink,
    WireguardLink,
    WireguardPeer,
    link_settings,
)
from overlayd.kernel.wireguard import Devices, devices, userspace
from overlayd.lib import marks
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.counters import counter

OPERATIONS = counter(
    "overlayd_kernel_operations_total", "Changes made to links, addresses, routes and the like.", label="operation"
)
REFUSALS = counter("overlayd_kernel_refusals_total", "Such changes that the kernel refused.", label="operation")

# The message where a kernel has no such devices, the module that brings them, and which backends need none of them.
_LACKING: dict[type, tuple[str, str, str]] = {
    VxlanLink: ("this kernel has no VXLAN devices", "vxlan", "use backend host-gw or udp"),
    IpipLink: ("this kernel has no IP-in-IP devices", "ipip", "use backend host-gw, vxlan or udp"),
}


def read() -> KernelState:
    """All that has our mark: links by alias, what is on those links, and routes by protocol.

    Raises KernelRefused where the kernel refuses that, or a wireguard-go does not answer.
    """
    return read_with_foreign(())[0]


def read_with_foreign(networks: Collection[IPNetwork]) -> tuple[KernelState, tuple[ForeignRoute, ...]]:
    """The same, and the routes of others inside these networks, from one dump of the routing table."""
    try:
        return _read(networks)
    except OSError as error:
        raise KernelRefused("read", "what this host has", error.errno or errno.EIO) from error


def _read(networks: Collection[IPNetwork]) -> tuple[KernelState, tuple[ForeignRoute, ...]]:
    with devices() as wireguard:
        messages = links.read()
        names = {message.index: message.name for message in messages}
        peers: list[WireguardPeer] = []
        found = [link for message in messages if (link := decode.link(message, names, wireguard, peers)) is not None]
    ours = {index: name for index, name in names.items() if name in {link.name for link in found}}
    tables = [routes.read(version, names, networks) for version in (4, 6)]
    objects: list[KernelObject] = [*found, *peers, *decode.fdb(ours), *_sysctls(found), *decode.addresses(ours)]
    for version in (4, 6):
        objects += decode.neighbours(ours, version)
    objects += (route for own, _foreign in tables for route in own)
    return KernelState(frozenset(objects)), tuple(route for _ours, foreign in tables for route in foreign)


def apply(operations: Iterable[Operation]) -> list[tuple[Operation, KernelRefused]]:
    """Carry out operations in their order; returns those that failed, with the kernel's refusal. The others are done.

    Raises UnsupportedError where this kernel has no such kind of device at all.
    """
    failed: list[tuple[Operation, KernelRefused]] = []
    with devices() as wireguard:
        for batched, group in groupby(operations, key=lambda operation: isinstance(operation.object, batch.KINDS)):
            if batched:
                failed += _write_batch(list(group))
                continue
            for operation in group:
                if (refusal := _write(wireguard, operation)) is not None:
                    failed.append((operation, refusal))
    for operation, _refusal in failed:
        REFUSALS.add(of=operation.name)
    return failed


def _write_batch(operations: Sequence[Operation]) -> list[tuple[Operation, KernelRefused]]:
    try:
        codes = batch.write(operations)
    except OSError as error:
        codes = [error.errno or errno.EIO] * len(operations)
    failed = []
    for operation, code in zip(operations, codes, strict=True):
        if code == errno.EINVAL:
            code = _write_by_a_step(operation)  # noqa: PLW2901
        if not code:
            OPERATIONS.add(of=operation.name)
        elif not _harmless(operation, code):
            failed.append((operation, refused(operation, code)))
    return failed


def _write_by_a_step(operation: Operation) -> int:
    """Write a route whose gateway IPv6 refuses as long as another route leads to it by another device; 0, or the errno.

    IPv6 does so above all with the route that is to be replaced, onlink or not (ip6_route_check_nh_onlink). During the
    change, a route to the gateway alone leads by this device.
    """
    route = operation.object
    if not isinstance(route, Route) or not route.onlink or not isinstance(route.via, IPv6Address):
        return errno.EINVAL
    step = Route(dst=IPv6Network(route.via), link=route.link)
    by_step = (Operation(OperationKind.ADD, step), operation, Operation(OperationKind.DELETE, step))
    try:
        return batch.write(by_step)[1]
    except OSError as error:
        return error.errno or errno.EIO


def _write(wireguard: Devices, operation: Operation) -> KernelRefused | None:
    """Carry out one operation; the kernel's refusal, if it refused. Raises UnsupportedError: no such kind of device."""
    try:
        _carry_out(wireguard, operation)
    except KernelRefused as refusal:
        return refusal
    except OSError as error:
        code = error.errno or errno.EIO
        if _harmless(operation, code):
            return None
        lacking = _LACKING.get(type(operation.object))
        if lacking and operation.verb is OperationKind.ADD and code == errno.EOPNOTSUPP:
            what, module, instead = lacking
            raise modules.lacking(what, module, instead=instead) from error
        return refused(operation, code)
    OPERATIONS.add(of=operation.name)
    return None


def forwards(version: int) -> bool:
    """Whether this host forwards packets of an IP version."""
    try:
        return _sysctl_path(FORWARDING if version == 4 else FORWARDING6).read_text().strip() != "0"
    except OSError:
        return False


def cleanup() -> Iterator[str]:
    """Remove every route and link that has our mark, also after a crash; yields what was removed."""
    state = read()
    operations = [
        Operation(OperationKind.DELETE, item) for kind in (Route, Link) for item in sorted(state.all_of(kind), key=str)
    ]
    failed = apply(operations)
    refused = {operation for operation, _ in failed}
    for operation in operations:
        if operation not in refused:
            yield f"{operation.name.split()[0]} {operation.object}"
    yield from userspace.cleanup()
    if failed:
        raise failed[0][1]


def _carry_out(wireguard: Devices, operation: Operation) -> None:
    item, adds = operation.object, operation.verb is not OperationKind.DELETE
    match item:
        case Sysctl():
            if item == FORWARDING6:
                advertisements.keep()
            if not _without_ipv6(item):
                _sysctl_path(item).write_text(f"{item.value}\n")
        case Link():
            _write_link(wireguard, operation.verb, item)
        case WireguardPeer():
            wireguard.write_peer(item, present=adds)
        case Address():
            (links.add_address if adds else links.delete_address)(_index(item.link), item.address)
        case _:
            raise TypeError(f"no writer for a {type(item).__name__}")


def _write_link(wireguard: Devices, verb: OperationKind, link: Link) -> None:
    if verb is OperationKind.DELETE:
        with userspace.ending(link.name) if isinstance(link, WireguardLink) else contextlib.nullcontext():
            links.delete(_index(link.name))
        return
    if verb is OperationKind.ADD:
        match link:
            case TunLink():
                tun.make(link.name)
            case VxlanLink():
                # A MAC that is given at creation counts as set by the user: udev leaves it alone (MACAddressPolicy).
                links.add(link.name, "vxlan", mac=link.mac, data=_vxlan(link))
            case IpipLink():
                links.add(link.name, "ipip", data=_ipip(link))
            case WireguardLink():
                wireguard.make(link.name)
    index = _index(link.name)
    # Even the same MAC again makes the kernel forget the neighbours on the link (neigh_changeaddr), the permanent too.
    mac = link.mac if isinstance(link, VxlanLink) and links.read_one(index).mac != link.mac else None
    links.configure(index, mtu_bytes=link.mtu_bytes, alias=marks.ours().name, mac=mac)
    if isinstance(link, WireguardLink):
        wireguard.set_link(link)
    # No link-local address (1: IN6_ADDR_GEN_MODE_NONE): no peer would answer its solicitations. And router
    # advertisements are refused before the link is up: its other settings are written only afterwards.
    for name, value in (("addr_gen_mode", "1"), ("accept_ra", "0")):
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{link.name}/{name}").write_text(f"{value}\n")
    links.bring_up(index)


def _vxlan(link: VxlanLink) -> bytes:
    local = decode.IFLA_VXLAN_LOCAL if link.local.version == 4 else decode.IFLA_VXLAN_LOCAL6
    parts = [
        word(decode.IFLA_VXLAN_ID, link.vni),
        attribute(decode.IFLA_VXLAN_PORT, link.port.to_bytes(2, "big")),
        attribute(local, link.local.packed),
        word(decode.IFLA_VXLAN_LINK, _index(link.underlay)),
        byte(decode.IFLA_VXLAN_LEARNING, link.learning),
    ]
    # RFC 7348: checksums of zero. The inner packets have their own, and some NICs get the outer one wrong. Over IPv6 a
    # device drops zero checksums unless it is set to accept them (RFC 6935), and flannel's is not.
    if link.local.version == 4:
        parts.append(byte(decode.IFLA_VXLAN_UDP_CSUM, False))
    else:
        parts.append(byte(decode.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, link.sends_zero_csum6))
        parts.append(byte(decode.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, link.takes_zero_csum6))
    if link.gbp:
        parts.append(attribute(decode.IFLA_VXLAN_GBP, b""))
    return b"".join(parts)


def _ipip(link: IpipLink) -> bytes:
    # No far end and no underlay interface: the outer destination is the route's gateway, and is itself routed.
    return (
        attribute(decode.IFLA_IPTUN_LOCAL, link.local.packed)
        # Nothing but IPv4 inside; the kernel's devices take MPLS too.
        + byte(decode.IFLA_IPTUN_PROTO, socket.IPPROTO_IPIP)
        # The outer header may be fragmented where the inner one may: else a large datagram vanishes on a narrower path.
        + byte(decode.IFLA_IPTUN_PMTUDISC, False)
    )


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise OSError(errno.ENODEV, f"no interface {name}") from None


def _harmless(operation: Operation, code: int) -> bool:
    """Whether an object that was to be deleted was gone already, for instance with its link."""
    return operation.verb is OperationKind.DELETE and code in (
        errno.ENODEV,
        errno.ESRCH,
        errno.ENOENT,
        errno.EADDRNOTAVAIL,
    )


def settings_hold(settings: Iterable[Sysctl]) -> bool:
    """Whether all of these kernel settings have their values. No notification tells of a change."""
    return all(_now(one) == one for one in settings)


def _sysctls(found: Iterable[Link]) -> Iterator[Sysctl]:
    """The kernel settings that overlayd makes, with their present values, as far as they can be read."""
    of_links = [one for link in found for one in link_settings(link.name, ipv6=False)]
    return (now for one in (FORWARDING, FORWARDING6, *of_links) if (now := _now(one)) is not None)


def _now(setting: Sysctl) -> Sysctl | None:
    try:
        return replace(setting, value=_sysctl_path(setting).read_text().strip())
    except OSError:
        # Where no IPv6 packet can arrive on a link, the setting counts as made.
        return setting if _without_ipv6(setting) else None


def _without_ipv6(sysctl: Sysctl) -> bool:
    """Whether it is of IPv6 on a link without IPv6: this kernel has none, or the MTU is below 1280 (RFC 8200)."""
    if sysctl.link is None or not sysctl.name.startswith("net/ipv6/"):
        return False
    return not _sysctl_path(sysctl).parent.exists() and Path(f"/sys/class/net/{sysctl.link}").exists()


def _sysctl_path(sysctl: Sysctl) -> Path:
    return Path("/proc/sys") / sysctl.name

"""Netlink: read what has our mark, carry out operations, and remove everything again.

Every function opens a socket of its own and closes it, so any thread may call any of them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from overlayd.errors import KernelRefused
from overlayd.kernel import advertisements, decode, modules, routes, tun
from overlayd.kernel.decode import AF_INET, AF_INET6, NUD_PERMANENT
from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.foreign import ForeignRoute
from overlayd.kernel.pyroute import IPRoute, NetlinkError
from overlayd.kernel.refused import refused
from overlayd.kernel.routes import RT_TABLE_MAIN, RTNH_F_ONLINK
from overlayd.kernel.state import (
    FORWARDING,
    FORWARDING6,
    Address,
    FdbEntry,
    IpipLink,
    KernelObject,
    KernelState,
    Link,
    Neighbour,
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

FAMILIES = (AF_INET, AF_INET6)
NTF_SELF = 0x02
IFA_F_NODAD = 0x02
# The message where a kernel has no such devices, the module that brings them, and which backends need none of them.
_LACKING: dict[type, tuple[str, str, str]] = {
    VxlanLink: ("this kernel has no VXLAN devices", "vxlan", "use backend host-gw or udp"),
    IpipLink: ("this kernel has no IP-in-IP devices", "ipip", "use backend host-gw, vxlan or udp"),
}


@contextmanager
def connection() -> Iterator[Any]:
    """A netlink socket for the length of the block."""
    ipr = IPRoute()
    try:
        yield ipr
    finally:
        ipr.close()


def read() -> KernelState:
    """All that has our mark: links by alias, what is on those links, and routes by protocol.

    Raises KernelRefused where a wireguard-go does not answer.
    """
    return read_with_foreign(())[0]


def read_with_foreign(networks: Collection[IPNetwork]) -> tuple[KernelState, tuple[ForeignRoute, ...]]:
    """The same, and the routes of others inside these networks, from one dump of the routing table."""
    with connection() as ipr, devices() as wireguard:
        messages = list(ipr.get_links())
        names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in messages}
        peers: list[WireguardPeer] = []
        links = [link for message in messages if (link := decode.link(message, names, wireguard, peers)) is not None]
        ours = {index: name for index, name in names.items() if name in {link.name for link in links}}
        tables = [_routes(version, names, networks) for version in (4, 6)]
        objects: list[KernelObject] = [*links, *peers, *decode.fdb(ours), *_sysctls(links)]
        for family in FAMILIES:
            objects += decode.addresses(ipr, ours, family)
            objects += decode.neighbours(ours, family)
        objects += (route for found, _foreign in tables for route in found)
        return KernelState(frozenset(objects)), tuple(route for _ours, found in tables for route in found)


def apply(operations: Iterable[Operation]) -> list[tuple[Operation, KernelRefused]]:
    """Carry out operations in their order; returns those that failed, with the kernel's refusal. The others are done.

    Raises UnsupportedError where this kernel has no such kind of device at all.
    """
    failed = []
    with connection() as ipr, devices() as wireguard:
        for operation in operations:
            try:
                _carry_out(ipr, wireguard, operation)
                OPERATIONS.add(of=operation.name)
            except KernelRefused as refusal:
                failed.append((operation, refusal))
            except NetlinkError as error:
                if _harmless(operation, error.code):
                    continue
                lacking = _LACKING.get(type(operation.object))
                if lacking and operation.verb is OperationKind.ADD and error.code == errno.EOPNOTSUPP:
                    what, module, instead = lacking
                    raise modules.lacking(what, module, instead=instead) from error
                failed.append((operation, refused(operation, error.code)))
            except OSError as error:
                if not _harmless(operation, error.errno or errno.EIO):
                    failed.append((operation, refused(operation, error.errno or errno.EIO)))
    for operation, _refusal in failed:
        REFUSALS.add(of=operation.name)
    return failed


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


def _carry_out(ipr: Any, wireguard: Devices, operation: Operation) -> None:
    item, adds = operation.object, operation.verb is not OperationKind.DELETE
    match item:
        case Sysctl():
            if item == FORWARDING6:
                advertisements.keep(ipr)
            if not _without_ipv6(item):
                _sysctl_path(item).write_text(f"{item.value}\n")
        case Link():
            _write_link(ipr, wireguard, operation.verb, item)
        case WireguardPeer():
            wireguard.write_peer(item, present=adds)
        case Address():
            index = _index(item.link)
            ipr.addr(
                "replace" if adds else "del",
                index=index,
                address=str(item.address.ip),
                prefixlen=item.address.network.prefixlen,
                # No other host can have it: no second of waiting for duplicate address detection (RFC 4862).
                **({"flags": IFA_F_NODAD} if item.address.version == 6 else {}),
            )
        case Route():
            _write_route(ipr, operation.verb, item)
        case Neighbour():
            ipr.neigh(
                "replace" if adds else "del",
                ifindex=_index(item.link),
                dst=str(item.address),
                lladdr=item.mac,
                state=NUD_PERMANENT,
            )
        case FdbEntry():
            ipr.fdb(
                "replace" if adds else "del",
                ifindex=_index(item.link),
                lladdr=item.mac,
                dst=str(item.dst),
                state=NUD_PERMANENT,
                flags=NTF_SELF,
            )
        case _:
            raise TypeError(f"no writer for a {type(item).__name__}")


def _write_link(ipr: Any, wireguard: Devices, verb: OperationKind, link: Link) -> None:
    if verb is OperationKind.DELETE:
        with userspace.ending(link.name) if isinstance(link, WireguardLink) else contextlib.nullcontext():
            ipr.link("del", index=_index(link.name))
        return
    if verb is OperationKind.ADD:
        match link:
            case TunLink():
                tun.make(link.name)
            case VxlanLink():
                ipr.link("add", **_vxlan(link))
            case IpipLink():
                ipr.link("add", **_ipip(link))
            case WireguardLink():
                wireguard.make(ipr, link.name)
    index = _index(link.name)
    changes: dict[str, Any] = {"mtu": link.mtu_bytes, "IFLA_IFALIAS": marks.ours().name}
    # Even the same MAC again makes the kernel forget the neighbours on the link (neigh_changeaddr), the permanent too.
    if isinstance(link, VxlanLink) and _mac(ipr, index) != link.mac:
        changes["address"] = link.mac
    ipr.link("set", index=index, **changes)
    if isinstance(link, WireguardLink):
        wireguard.set_link(link)
    # No link-local address (1: IN6_ADDR_GEN_MODE_NONE): no peer would answer its solicitations. And router
    # advertisements are refused before the link is up: its other settings are written only afterwards.
    for name, value in (("addr_gen_mode", "1"), ("accept_ra", "0")):
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{link.name}/{name}").write_text(f"{value}\n")
    ipr.link("set", index=index, state="up")


def _write_route(ipr: Any, verb: OperationKind, route: Route) -> None:
    if verb is OperationKind.DELETE:
        ipr.route("del", **_route(route))
        return
    # "add" fails where a route of others is there, also one that came after the dump: it is not ours to replace. Only
    # our own routes are changed, and flannel's (foreign.py).
    command = "add" if verb is OperationKind.ADD else "change"
    try:
        ipr.route(command, **_route(route))
    except NetlinkError as error:
        gateway = route.via
        if error.code != errno.EINVAL or not route.onlink or not isinstance(gateway, IPv6Address):
            raise
        # IPv6 refuses a gateway that another route, above all the one to be replaced, leads to by another device,
        # onlink or not (ip6_route_check_nh_onlink). During the change, a route to the gateway alone leads by this one.
        step = _route(Route(dst=IPv6Network(gateway), link=route.link))
        ipr.route("add", **step)
        try:
            ipr.route(command, **_route(route))
        finally:
            ipr.route("del", **step)


def _routes(
    version: int, names: dict[int, str], networks: Collection[IPNetwork]
) -> tuple[list[Route], list[ForeignRoute]]:
    try:
        return routes.read(version, names, networks)
    except OSError as error:
        raise KernelRefused("route show", f"of IPv{version}", error.errno or errno.EIO) from error


def _mac(ipr: Any, index: int) -> str | None:
    (message,) = ipr.link("get", index=index)
    mac: str | None = message.get_attr("IFLA_ADDRESS")
    return mac


def _vxlan(link: VxlanLink) -> dict[str, Any]:
    words: dict[str, Any] = {
        "ifname": link.name,
        "kind": "vxlan",
        # A MAC that is given at creation counts as set by the user: udev leaves it alone (MACAddressPolicy).
        "address": link.mac,
        "vxlan_id": link.vni,
        "vxlan_port": link.port,
        "vxlan_local" if link.local.version == 4 else "vxlan_local6": str(link.local),
        "vxlan_link": _index(link.underlay),
        "vxlan_learning": link.learning,
        # RFC 7348: checksums of zero. The inner packets have their own, and some NICs get the outer one wrong. Over
        # IPv6 a device drops zero checksums unless it is set to accept them (RFC 6935), and flannel's is not.
        **(
            {"vxlan_udp_csum": 0}
            if link.local.version == 4
            else {
                "vxlan_udp_zero_csum6_tx": int(link.sends_zero_csum6),
                "vxlan_udp_zero_csum6_rx": int(link.takes_zero_csum6),
            }
        ),
    }
    return {**words, "vxlan_gbp": True} if link.gbp else words


def _ipip(link: IpipLink) -> dict[str, Any]:
    return {
        "ifname": link.name,
        "kind": "ipip",
        # No far end and no underlay interface: the outer destination is the route's gateway, and is itself routed.
        "ipip_local": str(link.local),
        # Nothing but IPv4 inside; the kernel's devices take MPLS too.
        "ipip_proto": socket.IPPROTO_IPIP,
        # The outer header may be fragmented where the inner one may: else a large datagram vanishes on a narrower path.
        "ipip_pmtudisc": 0,
    }


def _route(route: Route) -> dict[str, Any]:
    words: dict[str, Any] = {
        "family": AF_INET if route.dst.version == 4 else AF_INET6,
        "dst": str(route.dst),
        "proto": marks.ours().route_protocol,
        "table": RT_TABLE_MAIN,
        # IPv6 knows no scopes.
        "scope": 0 if route.via or route.dst.version == 6 else 253,
    }
    if route.link is None:
        words |= {"type": "blackhole", "scope": 0}
    else:
        words["oif"] = _index(route.link)
    if route.metric:
        words["priority"] = route.metric
    if route.via is not None:
        words["gateway"] = str(route.via)
    if route.src is not None:
        words["prefsrc"] = str(route.src)
    if route.onlink:
        words["flags"] = RTNH_F_ONLINK
    return words


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise NetlinkError(errno.ENODEV, f"no interface {name}") from None


def _harmless(operation: Operation, code: int) -> bool:
    """Whether an object that was to be deleted was gone already, for instance with its link."""
    return operation.verb is OperationKind.DELETE and code in (
        errno.ENODEV,
        errno.ESRCH,
        errno.ENOENT,
        errno.EADDRNOTAVAIL,
    )


def _sysctls(links: Iterable[Link]) -> Iterator[Sysctl]:
    """The kernel settings that overlayd makes, with their present values, as far as they can be read."""
    of_links = [one for link in links for one in link_settings(link.name, ipv6=False)]
    for setting in (FORWARDING, FORWARDING6, *of_links):
        try:
            yield replace(setting, value=_sysctl_path(setting).read_text().strip())
        except OSError:
            if _without_ipv6(setting):
                # No IPv6 packet can arrive on this link, so the setting counts as made.
                yield setting


def _without_ipv6(sysctl: Sysctl) -> bool:
    """Whether it is of IPv6 on a link without IPv6: this kernel has none, or the MTU is below 1280 (RFC 8200)."""
    if sysctl.link is None or not sysctl.name.startswith("net/ipv6/"):
        return False
    return not _sysctl_path(sysctl).parent.exists() and Path(f"/sys/class/net/{sysctl.link}").exists()


def _sysctl_path(sysctl: Sysctl) -> Path:
    return Path("/proc/sys") / sysctl.name

"""Netlink: read what carries our mark, carry out operations, and take everything away again.

With `interfaces`, the only importer of pyroute2. Every function opens a socket of its own and closes it, so any thread
may call any of them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from overlayd.errors import KernelRefused, UnsupportedError
from overlayd.kernel import tun
from overlayd.kernel.diff import Operation, Verb
from overlayd.kernel.state import (
    FORWARDING,
    LINK_ALIAS,
    LINK_NAME_PREFIX,
    ROUTE_PROTOCOL,
    Address,
    FdbEntry,
    KernelState,
    Neighbour,
    Route,
    Sysctl,
    TunLink,
    VxlanLink,
)

AF_INET, AF_BRIDGE = 2, 7
RT_TABLE_MAIN = 254
NUD_PERMANENT = 0x80
NTF_SELF = 0x02
RTNH_F_ONLINK = 4
IFF_UP = 1


@contextmanager
def connection() -> Iterator[Any]:
    """A netlink socket for the length of the block."""
    ipr = IPRoute()
    try:
        yield ipr
    finally:
        ipr.close()


def read() -> KernelState:
    """All that carries our mark: links by alias, what is on those links, and routes by protocol."""
    with connection() as ipr:
        messages = list(ipr.get_links())
        names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in messages}
        links = [link for message in messages if (link := _link(message, names)) is not None]
        ours = {index: name for index, name in names.items() if name in {link.name for link in links}}
        return KernelState(
            links=frozenset(links),
            addresses=frozenset(_addresses(ipr, ours)),
            routes=frozenset(_routes(ipr, names)),
            neighbours=frozenset(_neighbours(ipr, ours)),
            fdb=frozenset(_fdb(ipr, ours)),
            sysctls=frozenset(_sysctls()),
        )


def apply(operations: Iterable[Operation]) -> list[tuple[Operation, KernelRefused]]:
    """Carry out operations in their order; the ones that failed, with the kernel's words. The others are done.

    Raises UnsupportedError where this kernel has no such kind of device at all.
    """
    failed = []
    with connection() as ipr:
        for operation in operations:
            try:
                _carry_out(ipr, operation)
            except NetlinkError as error:
                if _harmless(operation, error.code):
                    continue
                if (
                    operation.verb is Verb.ADD
                    and error.code == errno.EOPNOTSUPP
                    and isinstance(operation.thing, VxlanLink)
                ):
                    raise UnsupportedError(
                        "this kernel has no VXLAN devices", hint="modprobe vxlan, or use backend host-gw or udp"
                    ) from error
                failed.append((operation, _refused(operation, error.code)))
            except OSError as error:
                failed.append((operation, _refused(operation, error.errno or errno.EIO)))
    return failed


def cleanup() -> Iterator[str]:
    """Remove every route and link that carries our mark, also after a crash; what was removed, one by one."""
    state = read()
    operations = [
        *(Operation(Verb.DELETE, route) for route in sorted(state.routes, key=str)),
        *(Operation(Verb.DELETE, link) for link in sorted(state.links, key=str)),
    ]
    failed = apply(operations)
    refused = {operation for operation, _ in failed}
    for operation in operations:
        if operation not in refused:
            yield f"{operation.name.split()[0]} {operation.thing}"
    if failed:
        raise failed[0][1]


def _carry_out(ipr: Any, operation: Operation) -> None:
    item, adds = operation.thing, operation.verb is not Verb.DELETE
    match item:
        case Sysctl():
            _sysctl_path(item).write_text(f"{item.value}\n")
        case VxlanLink() | TunLink():
            _write_link(ipr, operation.verb, item)
        case Address():
            index = _index(item.link)
            ipr.addr(
                "replace" if adds else "del",
                index=index,
                address=str(item.address.ip),
                prefixlen=item.address.network.prefixlen,
            )
        case Route():
            # Replaces even a foreign route of the same key: the lease says where the subnet is, and what flannel or a
            # person put there before is taken over with our mark.
            ipr.route("replace" if adds else "del", **_route(item))
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


def _write_link(ipr: Any, verb: Verb, link: VxlanLink | TunLink) -> None:
    if verb is Verb.DELETE:
        ipr.link("del", index=_index(link.name))
        return
    if verb is Verb.ADD:
        if isinstance(link, TunLink):
            tun.make(link.name)
        else:
            ipr.link("add", **_vxlan(link))
    index = _index(link.name)
    changes: dict[str, Any] = {"mtu": link.mtu_bytes, "IFLA_IFALIAS": LINK_ALIAS}
    if isinstance(link, VxlanLink):
        changes["address"] = link.mac
    ipr.link("set", index=index, **changes)
    # No IPv6 address of its own (1: IN6_ADDR_GEN_MODE_NONE): nobody would answer its solicitations.
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv6/conf/{link.name}/addr_gen_mode").write_text("1\n")
    ipr.link("set", index=index, state="up")


def _vxlan(link: VxlanLink) -> dict[str, Any]:
    words: dict[str, Any] = {
        "ifname": link.name,
        "kind": "vxlan",
        # Given at creation, the address counts as set by us, and udev leaves it alone (MACAddressPolicy).
        "address": link.mac,
        "vxlan_id": link.vni,
        "vxlan_port": link.port,
        "vxlan_local": str(link.local),
        "vxlan_link": _index(link.underlay),
        "vxlan_learning": link.learning,
        # RFC 7348: zero. The inner packets have their own, and some NICs get the outer one wrong.
        "vxlan_udp_csum": 0,
    }
    return {**words, "vxlan_gbp": True} if link.gbp else words


def _route(route: Route) -> dict[str, Any]:
    words: dict[str, Any] = {
        "dst": str(route.dst),
        "oif": _index(route.link),
        "proto": ROUTE_PROTOCOL,
        "table": RT_TABLE_MAIN,
        "scope": 0 if route.via else 253,
    }
    if route.via is not None:
        words["gateway"] = str(route.via)
    if route.src is not None:
        words["prefsrc"] = str(route.src)
    if route.onlink:
        words["flags"] = RTNH_F_ONLINK
    return words


def _link(message: Any, names: dict[int, str]) -> VxlanLink | TunLink | None:
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    name, mtu_bytes, up = message.get_attr("IFLA_IFNAME"), message.get_attr("IFLA_MTU"), bool(message["flags"] & IFF_UP)
    alias = message.get_attr("IFLA_IFALIAS")
    # The alias cannot be given at creation. One of our names with no alias, never brought up, is one cut short there.
    if alias != LINK_ALIAS and (alias or up or not name.startswith(LINK_NAME_PREFIX)):
        return None
    if kind == "tun":
        return TunLink(name=name, mtu_bytes=mtu_bytes, up=up)
    if kind != "vxlan":
        return None
    data = info.get_attr("IFLA_INFO_DATA")
    return VxlanLink(
        name=name,
        mtu_bytes=mtu_bytes,
        up=up,
        mac=message.get_attr("IFLA_ADDRESS"),
        vni=data.get_attr("IFLA_VXLAN_ID"),
        port=data.get_attr("IFLA_VXLAN_PORT"),
        local=IPv4Address(data.get_attr("IFLA_VXLAN_LOCAL") or "0.0.0.0"),
        underlay=names.get(data.get_attr("IFLA_VXLAN_LINK") or 0, ""),
        learning=bool(data.get_attr("IFLA_VXLAN_LEARNING")),
        gbp=data.get_attr("IFLA_VXLAN_GBP") is not None,
    )


def _addresses(ipr: Any, ours: dict[int, str]) -> Iterator[Address]:
    for message in ipr.get_addr(family=AF_INET):
        if message["index"] in ours:
            text = f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
            yield Address(link=ours[message["index"]], address=IPv4Interface(text))


def _routes(ipr: Any, names: dict[int, str]) -> Iterator[Route]:
    for message in ipr.get_routes(family=AF_INET, proto=ROUTE_PROTOCOL, table=RT_TABLE_MAIN):
        via = message.get_attr("RTA_GATEWAY")
        yield Route(
            dst=IPv4Network(f"{message.get_attr('RTA_DST') or '0.0.0.0'}/{message['dst_len']}"),
            link=names.get(message.get_attr("RTA_OIF"), ""),
            via=IPv4Address(via) if via else None,
            onlink=bool(message["flags"] & RTNH_F_ONLINK),
            src=IPv4Address(source) if (source := message.get_attr("RTA_PREFSRC")) else None,
        )


def _neighbours(ipr: Any, ours: dict[int, str]) -> Iterator[Neighbour]:
    for message in ipr.get_neighbours(family=AF_INET):
        mac = message.get_attr("NDA_LLADDR")
        if message["ifindex"] in ours and message["state"] & NUD_PERMANENT and mac:
            address = IPv4Address(message.get_attr("NDA_DST"))
            yield Neighbour(link=ours[message["ifindex"]], address=address, mac=mac)


def _fdb(ipr: Any, ours: dict[int, str]) -> Iterator[FdbEntry]:
    for message in ipr.get_neighbours(family=AF_BRIDGE):
        destination = message.get_attr("NDA_DST")
        # With Learning the kernel adds entries of its own, which age.
        if message["ifindex"] in ours and destination and message["state"] & NUD_PERMANENT:
            mac = message.get_attr("NDA_LLADDR")
            yield FdbEntry(link=ours[message["ifindex"]], mac=mac, dst=IPv4Address(destination))


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise NetlinkError(errno.ENODEV, f"no interface {name}") from None


def _harmless(operation: Operation, code: int) -> bool:
    """Whether what was to be removed had gone already, for instance with its link."""
    return operation.verb is Verb.DELETE and code in (errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL)


def _refused(operation: Operation, code: int) -> KernelRefused:
    hint = None
    if code == errno.EEXIST and isinstance(operation.thing, VxlanLink):
        vxlan = operation.thing
        hint = (
            f"another device has VNI {vxlan.vni} on port {vxlan.port} or the name {vxlan.name}: "
            "see `ip -d link show type vxlan`; flannel's own is removed with `ip link delete flannel.1`"
        )
    return KernelRefused(operation.name, str(operation.thing), code, hint=hint)


def _sysctls() -> Iterator[Sysctl]:
    """The settings we may have made, as they are; one that cannot be read is one that is not there."""
    for wanted in (FORWARDING,):
        with contextlib.suppress(OSError):
            yield Sysctl(name=wanted.name, value=_sysctl_path(wanted).read_text().strip())


def _sysctl_path(sysctl: Sysctl) -> Path:
    return Path("/proc/sys") / sysctl.name

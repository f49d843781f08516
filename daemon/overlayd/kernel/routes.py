"""The main routing table as the kernel dumps it (rtnetlink(7)): our routes, and others' that may be in our way."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from overlayd.kernel.dump import NLM_F_DUMP_INTR, attributes, dump, number
from overlayd.kernel.foreign import ForeignRoute
from overlayd.kernel.state import Route
from overlayd.lib import marks
from overlayd.lib.addresses import IPAddress, IPNetwork

RTM_GETROUTE = 26
RT_TABLE_MAIN, RTN_UNICAST, RTN_BLACKHOLE, RTNH_F_ONLINK = 254, 1, 6, 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 7, 9, 15, 18
# What the kernel gives an IPv6 route for which none is asked (IP6_RT_PRIO_USER); for IPv4 it is 0.
USUAL_METRIC6 = 1024
# A dump during which the table changed is begun again (NLM_F_DUMP_INTR), but not for ever.
TRIES = 5
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, lengths of dst and src, tos, table, protocol, scope, type; flags
_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, interface
_AF_OF = {4: socket.AF_INET, 6: socket.AF_INET6}


def read(
    version: int, names: dict[int, str], networks: Collection[IPNetwork]
) -> tuple[list[Route], list[ForeignRoute]]:
    """Of one family: the routes with our protocol number, and the others inside these networks. Raises OSError.

    `names` are all links' by index.
    """
    own = marks.ours().route_protocol
    inside = [(int(one.network_address), int(one.netmask), one.prefixlen) for one in networks if one.version == version]
    for attempt in range(TRIES):
        ours: list[Route] = []
        foreign: list[ForeignRoute] = []
        whole = True
        for flags, message in dump(RTM_GETROUTE, _ROUTE.pack(_AF_OF[version], 0, 0, 0, 0, 0, 0, 0, 0)):
            whole = whole and not flags & NLM_F_DUMP_INTR
            protocol, table, length = message[5], message[4], message[1]
            if protocol != own and not inside:
                continue
            found = attributes(message, _ROUTE.size)
            if (number(found.get(RTA_TABLE)) or table) != RT_TABLE_MAIN:
                continue
            base = int.from_bytes(found.get(RTA_DST, b""), "big")
            if protocol == own:
                ours.append(_our_route(version, message, found, base, names))
            elif any(length >= least and base & mask == start for start, mask, least in inside):
                foreign.append(_foreign_route(version, message, found, base, names))
        if whole or attempt == TRIES - 1:
            break
    return ours, foreign


def _our_route(version: int, message: bytes, found: dict[int, bytes], base: int, names: dict[int, str]) -> Route:
    flags = _ROUTE.unpack_from(message)[-1]
    link = None if message[7] == RTN_BLACKHOLE else names.get(number(found.get(RTA_OIF)), "")
    return Route(
        dst=_network(version, base, message[1]),
        link=link,
        via=_address(found.get(RTA_GATEWAY)),
        onlink=bool(flags & RTNH_F_ONLINK),
        src=_address(found.get(RTA_PREFSRC)),
        metric=_metric(version, found),
    )


def _foreign_route(
    version: int, message: bytes, found: dict[int, bytes], base: int, names: dict[int, str]
) -> ForeignRoute:
    via, index, several = found.get(RTA_GATEWAY), number(found.get(RTA_OIF)), False
    if RTA_MULTIPATH in found:
        hops = found[RTA_MULTIPATH]
        size, _flags, _hops, index = _HOP.unpack_from(hops)
        via, several = attributes(hops[:size], _HOP.size).get(RTA_GATEWAY), size < len(hops)
    if via is None and RTA_VIA in found:
        # IPv4 by an IPv6 next hop (RFC 5549): two bytes of family before it.
        via = found[RTA_VIA][2:]
    return ForeignRoute(
        dst=_network(version, base, message[1]),
        link=names.get(index, "?") if message[7] == RTN_UNICAST else None,
        via=_address(via),
        several=several,
        metric=_metric(version, found),
        protocol=message[5],
    )


def _metric(version: int, found: dict[int, bytes]) -> int:
    metric = number(found.get(RTA_PRIORITY))
    return 0 if version == 6 and metric == USUAL_METRIC6 else metric


def _network(version: int, base: int, length: int) -> IPNetwork:
    return IPv4Network((base, length)) if version == 4 else IPv6Network((base, length))


def _address(data: bytes | None) -> IPAddress | None:
    if data is None:
        return None
    return IPv4Address(data) if len(data) == 4 else IPv6Address(data)

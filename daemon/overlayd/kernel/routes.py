"""The main routing table as the kernel dumps it (rtnetlink(7)): our routes, and others' that may be in our way."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network

from overlayd.kernel import messages
from overlayd.kernel.foreign import ForeignRoute
from overlayd.kernel.links import address_of
from overlayd.kernel.messages import FAMILY, NLM_F_DUMP_INTR, attribute, attributes, dump, number
from overlayd.kernel.state import Route
from overlayd.lib import marks
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.quick_dataclass import dataclass

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RT_TABLE_UNSPEC, RT_TABLE_MAIN = 0, 254
RTN_UNICAST, RTN_BLACKHOLE, RTNH_F_ONLINK = 1, 6, 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 7, 9, 15, 18
# What the kernel gives an IPv6 route for which none is asked (IP6_RT_PRIO_USER); for IPv4 it is 0.
USUAL_METRIC6 = 1024
# A dump during which the table changed is begun again (NLM_F_DUMP_INTR), but not for ever.
TRIES = 5
ROUTE = struct.Struct("=8BI")  # rtmsg: family, lengths of dst and src, tos, table, protocol, scope, type; flags
_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, interface


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
        for flags, message in dump(RTM_GETROUTE, ROUTE.pack(FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0)):
            whole = whole and not flags & NLM_F_DUMP_INTR
            protocol, table, length = message[5], message[4], message[1]
            if protocol != own and not inside:
                continue
            found = attributes(message, ROUTE.size)
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


def is_of_main(message: bytes) -> bool:
    """Whether a message, without its header, may be about a route of the main table."""
    return len(message) < ROUTE.size or message[4] in (RT_TABLE_UNSPEC, RT_TABLE_MAIN)


def parse_ours(message: bytes, names: Mapping[int, str]) -> Route | None:
    """The route of ours that a message of the main table is about, without its header; None for one of others."""
    if len(message) < ROUTE.size or message[5] != marks.ours().route_protocol:
        return None
    found = attributes(message, ROUTE.size)
    version = next((version for version, family in FAMILY.items() if family == message[0]), None)
    if version is None:
        return None
    return _our_route(version, message, found, int.from_bytes(found.get(RTA_DST, b""), "big"), names)


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One next hop: by which interface (0: none), and the router, if there is one."""

    ifindex: int
    gateway: IPAddress | None


@dataclass(frozen=True, kw_only=True)
class MainRoute:
    """One route of the main table, whosever it is. `flags` are RTNH_F_… of linux/rtnetlink.h, `source` prefsrc."""

    length: int
    protocol: int
    flags: int
    metric: int
    source: IPAddress | None
    hops: tuple[Hop, ...]


def read_main(version: int, *, length: int | None = None) -> list[MainRoute]:
    """The routes of the main table; with `length`, those whose prefix is so long. Raises OSError."""
    return [
        route
        for _flags, message in dump(RTM_GETROUTE, ROUTE.pack(FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0))
        if length is None or message[1] == length
        if (route := _main_route(message)) is not None
    ]


def ask(address: IPAddress) -> MainRoute:
    """The route that the kernel would send a packet by. Raises OSError: ENETUNREACH."""
    head = ROUTE.pack(FAMILY[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    answer = messages.ask(RTM_GETROUTE, head + attribute(RTA_DST, address.packed))
    return _any_route(answer, attributes(answer, ROUTE.size))


def _main_route(message: bytes) -> MainRoute | None:
    found = attributes(message, ROUTE.size)
    return _any_route(message, found) if (number(found.get(RTA_TABLE)) or message[4]) == RT_TABLE_MAIN else None


def _any_route(message: bytes, found: dict[int, bytes]) -> MainRoute:
    return MainRoute(
        length=message[1],
        protocol=message[5],
        flags=ROUTE.unpack_from(message)[-1],
        metric=number(found.get(RTA_PRIORITY)),
        source=_address(found.get(RTA_PREFSRC)),
        hops=tuple(_hops(found)),
    )


def _hops(found: dict[int, bytes]) -> Iterator[Hop]:
    if RTA_MULTIPATH not in found:
        yield Hop(ifindex=number(found.get(RTA_OIF)), gateway=_gateway(found))
        return
    hops, at = found[RTA_MULTIPATH], 0
    while at + _HOP.size <= len(hops):
        size, _flags, _count, index = _HOP.unpack_from(hops, at)
        if size < _HOP.size:
            return
        yield Hop(ifindex=index, gateway=_gateway(attributes(hops[: at + size], at + _HOP.size)))
        at += (size + 3) & ~3


def _gateway(found: dict[int, bytes]) -> IPAddress | None:
    # RTA_VIA: IPv4 by an IPv6 next hop (RFC 5549): two bytes of family before it.
    return _address(found.get(RTA_GATEWAY)) or (_address(found[RTA_VIA][2:]) if RTA_VIA in found else None)


def _our_route(version: int, message: bytes, found: dict[int, bytes], base: int, names: Mapping[int, str]) -> Route:
    flags = ROUTE.unpack_from(message)[-1]
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
    first, *others = _hops(found)
    return ForeignRoute(
        dst=_network(version, base, message[1]),
        link=names.get(first.ifindex, "?") if message[7] == RTN_UNICAST else None,
        via=first.gateway,
        several=bool(others),
        metric=_metric(version, found),
        protocol=message[5],
    )


def _metric(version: int, found: dict[int, bytes]) -> int:
    metric = number(found.get(RTA_PRIORITY))
    return 0 if version == 6 and metric == USUAL_METRIC6 else metric


def _network(version: int, base: int, length: int) -> IPNetwork:
    return IPv4Network((base, length)) if version == 4 else IPv6Network((base, length))


def _address(data: bytes | None) -> IPAddress | None:
    return None if data is None else address_of(data)

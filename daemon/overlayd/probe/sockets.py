"""ICMP sockets as probes use them (icmp(7), raw(7), ipv6(7))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection

from overlayd.probe import icmp

Socket = socket.socket
RECEIVE_BYTES = 4 * 1024 * 1024
# linux/icmp.h, linux/icmpv6.h, linux/in.h, linux/in6.h: Python has no names for these.
SOL_RAW, ICMP_FILTER = 255, 1
SOL_ICMPV6, ICMP6_FILTER = 58, 1
IP_MTU_DISCOVER, IP_MTU = 10, 14
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24
# Set DF, and ignore the cached path MTU: each probe measures the path anew.
PMTUDISC_PROBE = 3
# The default hop limit, which for IPv4 is net.ipv4.ip_default_ttl (ip(7), ipv6(7)).
USUAL_HOPS = -1


def icmp_socket(version: int, *, raw: bool = True, hear_requests: bool = True) -> socket.socket:
    """An ICMP socket of IP version 4 or 6 that never blocks and never fragments.

    `raw` sockets receive all ICMP, and need root; users may have the other kind where net.ipv4.ping_group_range allows
    it. `hear_requests`: the socket receives echo requests of others too. Raises OSError.
    """
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    opened = socket.socket(family, socket.SOCK_RAW if raw else socket.SOCK_DGRAM, protocol)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        if version == 4:
            opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
        if raw:
            types = {*icmp.RECEIVED_TYPES[version], *([icmp.ECHO_REQUEST[version]] if hear_requests else [])}
            _filter(opened, version, types)
    except BaseException:
        opened.close()
        raise
    return opened


def set_hop_limit(opened: socket.socket, version: int, hops: int) -> None:
    """Set the hop limit of the packets that are sent next; USUAL_HOPS for the default. Raises OSError."""
    if version == 4:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)


def _filter(opened: socket.socket, version: int, types: Collection[int]) -> None:
    """Receive only these ICMP types. In both IP versions a set bit of the filter keeps a type out."""
    if version == 4:
        mask = 0xFFFFFFFF & ~sum(1 << kind for kind in types)
        opened.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", mask))
        return
    words = [0xFFFFFFFF] * 8
    for kind in types:
        words[kind >> 5] &= ~(1 << (kind & 31))
    opened.setsockopt(SOL_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *words))

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
# DF set, and the cached path MTU not looked at: every probe finds out for itself.
PMTUDISC_PROBE = 3
# As many as net.ipv4.ip_default_ttl says (ip(7), ipv6(7)).
USUAL_HOPS = -1


def icmp_socket(version: int, *, raw: bool = True, hear_requests: bool = True) -> socket.socket:
    """An ICMP socket of IP version 4 or 6 that never blocks and never fragments.

    `raw` sockets see everybody's ICMP, and are root's; the other kind is lent by the kernel to users
    (ping_group_range). `hear_requests`: echo requests of others are delivered too. Raises OSError.
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
            wanted = {*icmp.WANTED[version], *([icmp.ECHO_REQUEST[version]] if hear_requests else [])}
            _filter(opened, version, wanted)
    except BaseException:
        opened.close()
        raise
    return opened


def set_hop_limit(opened: socket.socket, version: int, hops: int) -> None:
    """What is sent next passes so many routers at most; or USUAL_HOPS. Raises OSError."""
    if version == 4:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)


def _filter(opened: socket.socket, version: int, wanted: Collection[int]) -> None:
    """Let through only what is of use; in both families a set bit keeps that type out."""
    if version == 4:
        mask = 0xFFFFFFFF & ~sum(1 << kind for kind in wanted)
        opened.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", mask))
        return
    words = [0xFFFFFFFF] * 8
    for kind in wanted:
        words[kind >> 5] &= ~(1 << (kind & 31))
    opened.setsockopt(SOL_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *words))

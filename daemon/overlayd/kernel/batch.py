"""Routes, neighbours and forwarding entries in batches: of these a host has three for each peer.

Many messages go to the kernel in one system call, and only the last asks for an acknowledgement (netlink(7)): the
kernel carries them out in their order, and reports each that it refuses by its sequence number. By pyroute2, one by
one, that takes fifteen times as long.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.links import (
    AF_BRIDGE,
    NDA_DST,
    NDA_LLADDR,
    NEIGHBOUR,
    NUD_PERMANENT,
    RTM_DELNEIGH,
    RTM_NEWNEIGH,
    mac_bytes,
)
from overlayd.kernel.messages import (
    FAMILY,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    RECEIVE_BYTES,
    attribute,
    each,
    error_of,
    opened,
    packed,
    word,
)
from overlayd.kernel.routes import (
    ROUTE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    RTN_BLACKHOLE,
    RTN_UNICAST,
    RTNH_F_ONLINK,
)
from overlayd.kernel.state import FdbEntry, KernelObject, Neighbour, Route
from overlayd.lib import marks
from overlayd.lib.addresses import IPAddress

KINDS = (Route, Neighbour, FdbEntry)
"""What `write` takes."""
NTF_SELF = 0x02
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
# A refusal takes up to 1 KB of the socket's buffer, which has 200 KB by default, and 32 KB on some hosts.
MESSAGES_AT_ONCE = 25
_OF_NEIGHBOURS = {
    **dict.fromkeys((OperationKind.ADD, OperationKind.CHANGE), (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)),
    OperationKind.DELETE: (RTM_DELNEIGH, 0),
}
# Type and flags of each message.
_MESSAGES: Mapping[type[KernelObject], Mapping[OperationKind, tuple[int, int]]] = {
    Route: {
        # It fails where a route of others is there, also one that came after the dump: it is not ours to replace.
        OperationKind.ADD: (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL),
        OperationKind.CHANGE: (RTM_NEWROUTE, NLM_F_REPLACE),
        OperationKind.DELETE: (RTM_DELROUTE, 0),
    },
    Neighbour: _OF_NEIGHBOURS,
    FdbEntry: _OF_NEIGHBOURS,
}


def write(operations: Sequence[Operation]) -> list[int]:
    """Carry out operations of KINDS in their order; of each the errno that it was refused with, or 0.

    Those after a refused one are carried out all the same. Raises OSError where no socket can be opened.
    """
    index = cache(socket.if_nametoindex)
    codes = [0] * len(operations)
    messages: list[_Message] = []
    for number, operation in enumerate(operations):
        try:
            messages.append(_message(number, operation, index))
        except OSError:
            # Its link has gone.
            codes[number] = errno.ENODEV
    with opened() as end:
        for first in range(0, len(messages), MESSAGES_AT_ONCE):
            _exchange(end, messages[first : first + MESSAGES_AT_ONCE], codes)
    return codes


class _Message(NamedTuple):
    """A message of rtnetlink without its header, and the number of its operation."""

    number: int
    kind: int
    flags: int
    body: bytes


def _exchange(end: socket.socket, messages: Sequence[_Message], codes: list[int]) -> None:
    last = messages[-1].number
    request = bytearray()
    for number, kind, flags, body in messages:
        asks = NLM_F_REQUEST | (NLM_F_ACK if number == last else 0)
        # Sequence numbers begin at 1: 0 is that of the kernel's own messages.
        request += packed(kind, flags | asks, body, sequence=number + 1)
    end.send(request)
    while True:
        for kind, _flags, sequence, body in each(end.recv(RECEIVE_BYTES)):
            if kind == NLMSG_ERROR:
                codes[sequence - 1] = error_of(body)
                if sequence - 1 == last:
                    return


def _message(number: int, operation: Operation, index: Callable[[str], int]) -> _Message:
    """Raises OSError where there is no such link."""
    kind, flags = _MESSAGES[type(operation.object)][operation.verb]
    return _Message(number, kind, flags, _body(operation.object, index))


def _body(item: KernelObject, index: Callable[[str], int]) -> bytes:
    match item:
        case Route():
            return _route(item, index)
        case Neighbour():
            head = NEIGHBOUR.pack(FAMILY[item.address.version], index(item.link), NUD_PERMANENT, 0, 0)
            return head + attribute(NDA_DST, item.address.packed) + attribute(NDA_LLADDR, mac_bytes(item.mac))
        case FdbEntry():
            head = NEIGHBOUR.pack(AF_BRIDGE, index(item.link), NUD_PERMANENT, NTF_SELF, 0)
            return head + attribute(NDA_LLADDR, mac_bytes(item.mac)) + attribute(NDA_DST, item.dst.packed)
    raise TypeError(f"a {type(item).__name__} is not written in batches")


def _route(route: Route, index: Callable[[str], int]) -> bytes:
    version = route.dst.version
    # IPv6 knows no scopes.
    universe = version == 6 or route.via is not None or route.link is None
    head = ROUTE.pack(
        FAMILY[version],
        route.dst.prefixlen,
        0,
        0,
        RT_TABLE_MAIN,
        marks.ours().route_protocol,
        RT_SCOPE_UNIVERSE if universe else RT_SCOPE_LINK,
        RTN_BLACKHOLE if route.link is None else RTN_UNICAST,
        RTNH_F_ONLINK if route.onlink else 0,
    )
    parts = [head, attribute(RTA_DST, route.dst.network_address.packed)]
    if route.link is not None:
        parts.append(word(RTA_OIF, index(route.link)))
    if route.metric:
        parts.append(word(RTA_PRIORITY, route.metric))
    parts += [_address(RTA_GATEWAY, route.via), _address(RTA_PREFSRC, route.src)]
    return b"".join(parts)


def _address(kind: int, address: IPAddress | None) -> bytes:
    return b"" if address is None else attribute(kind, address.packed)

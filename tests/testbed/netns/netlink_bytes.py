"""A program's requests by rtnetlink(7), read from its system calls with strace(1), as comparable values.

Sequence numbers, port ids and the order of attributes carry no meaning and are left out, as are the questions that a
program asks before it writes. Strings are compared without the NUL that some senders add: the kernel takes either.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.netns import namespaces

# linux/rtnetlink.h, linux/netlink.h
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH = 16, 20, 24, 28
RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE, RTM_DELNEIGH = 17, 21, 25, 29
_BODY_BYTES = {RTM_NEWLINK: 16, RTM_NEWADDR: 8, RTM_NEWROUTE: 12, RTM_NEWNEIGH: 12}
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
NLM_F_ACK = 4
IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA = 18, 1, 2
NLA_TYPE_MASK = 0x3FFF
# Of links. Under the same numbers, addresses have a label and routes nothing that is ours.
_IFNAME, _IFALIAS = (3,), (20,)

Attribute = tuple[tuple[int, ...], bytes]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message that writes. `attributes` are pairs of a path of attribute types and a payload."""

    type: int
    flags: int
    body: bytes
    attributes: frozenset[Attribute]


def written_by(namespace: str, argv: Sequence[str], folder: Path, *, env: Sequence[str] = ()) -> list[Message]:
    """The writing messages that a command sends in a namespace, in their order, whether or not the kernel obeyed."""
    trace = folder / "trace"
    # Its own exit status does not count: this kernel may have no such device.
    shell = 'strace -f -qq -e trace=sendto,sendmsg -e write=all -e signal=none -o "$0" env "$@" || true'
    namespaces.run(namespace, ["sh", "-c", shell, str(trace), *env, *argv])
    return [message for datagram in _datagrams(trace.read_text()) for message in _messages(datagram)]


def _datagrams(trace: str) -> list[bytes]:
    """The buffers that strace dumped, each a line of hexadecimal pairs after ` | 00010`."""
    found: list[bytearray] = []
    for line in trace.splitlines():
        dumped = re.match(r" \| ([0-9a-f]{5})  ((?:[0-9a-f]{2} {1,2}){1,16})", line)
        if dumped is None:
            continue
        if dumped[1] == "00000":
            found.append(bytearray())
        found[-1] += bytes.fromhex(dumped[2])
    return [bytes(one) for one in found]


def _messages(datagram: bytes) -> list[Message]:
    found = []
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, flags, _sequence, _port = _HEADER.unpack_from(datagram, at)
        if length < _HEADER.size:
            break
        new = kind & ~1
        body_bytes = _BODY_BYTES.get(new if new in _BODY_BYTES else -1)
        if body_bytes is not None and kind % 4 < 2:
            start = at + _HEADER.size
            attributes = frozenset(_attributes(datagram[start + body_bytes : at + length], ()))
            body = datagram[start : start + body_bytes]
            # `ip` begins with an empty one, to learn what the kernel knows.
            if any(body) or attributes:
                found.append(Message(type=kind, flags=flags & ~NLM_F_ACK, body=body, attributes=attributes))
        at += (length + 3) & ~3
    return found


def _attributes(data: bytes, path: tuple[int, ...]) -> list[Attribute]:
    found: list[Attribute] = []
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        here, payload = (*path, kind & NLA_TYPE_MASK), data[at + 4 : at + length]
        if here in ((IFLA_LINKINFO,), (IFLA_LINKINFO, IFLA_INFO_DATA)):
            found += _attributes(payload, here)
        else:
            text = here in (_IFNAME, _IFALIAS, (IFLA_LINKINFO, IFLA_INFO_KIND))
            found.append((here, payload.rstrip(b"\0") if text else payload))
        at += (length + 3) & ~3
    return found

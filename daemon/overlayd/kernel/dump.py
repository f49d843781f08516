"""Netlink dumps (netlink(7)), without a library: each reconciliation reads up to 25,000 objects of ours, and more of
others. By pyroute2 that takes twenty times as long.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLM_F_DUMP_INTR = 0x10
RECEIVE_BYTES = 256 * 1024
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")


def dump(kind: int, request: bytes) -> Iterator[tuple[int, bytes]]:
    """The flags and the payload of every message that answers. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as end:
        end.bind((0, 0))
        end.send(_HEADER.pack(_HEADER.size + len(request), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + request)
        while True:
            data, at = end.recv(RECEIVE_BYTES), 0
            while at + _HEADER.size <= len(data):
                size, found, flags, *_rest = _HEADER.unpack_from(data, at)
                if found == NLMSG_DONE:
                    return
                if found == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                    raise OSError(code, os.strerror(code))
                yield flags, data[at + _HEADER.size : at + size]
                at += (size + 3) & ~3


def attributes(message: bytes, at: int) -> dict[int, bytes]:
    """The attributes that begin there, by their numbers."""
    found = {}
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind] = message[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return found


def number(data: bytes | None) -> int:
    """A number of four bytes; 0 where there is none."""
    found: int = _NUMBER.unpack(data)[0] if data else 0
    return found

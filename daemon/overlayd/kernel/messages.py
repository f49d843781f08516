"""Netlink messages (netlink(7)): packed, exchanged with the kernel, and taken apart, without a library.

Each reconciliation reads up to 25,000 objects of ours, and more of others. By pyroute2 that takes twenty times as long.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

# linux/netlink.h: the protocols beside rtnetlink.
NETLINK_NETFILTER, NETLINK_GENERIC = 12, 16
# The address family of each IP version.
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP_INTR = 0x10
# linux/netlink.h: attributes that contain others, numbers in network order; the rest of the word is the attribute's.
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
RECEIVE_BYTES = 256 * 1024
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_ERROR = struct.Struct("=i")


def opened(protocol: int = socket.NETLINK_ROUTE, *, groups: int = 0) -> socket.socket:
    """A netlink socket with an address of its own, which hears these multicast groups too. Raises OSError."""
    end = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    try:
        end.bind((0, groups))
    except OSError:
        end.close()
        raise
    return end


def packed(kind: int, flags: int, body: bytes, *, sequence: int = 1) -> bytes:
    """A message with its header. The body has to fill up a multiple of four bytes, as headers and attributes do."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def each(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and payload of each message of a datagram."""
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, sequence, _port = HEADER.unpack_from(data, at)
        if size < HEADER.size:
            return
        yield kind, flags, sequence, data[at + HEADER.size : at + size]
        at += (size + 3) & ~3


def dump(kind: int, request: bytes, *, over: socket.socket | None = None) -> Iterator[tuple[int, bytes]]:
    """The flags and the payload of every message that answers; `over` a socket of `opened`, else one for rtnetlink.

    Raises OSError.
    """
    with _by(over) as end:
        end.send(packed(kind, NLM_F_REQUEST | NLM_F_DUMP, request))
        while True:
            for found, flags, _sequence, body in each(end.recv(RECEIVE_BYTES)):
                # A dump that cannot begin ends with an errno, too (netlink_dump_done).
                if found == NLMSG_ERROR or (found == NLMSG_DONE and len(body) >= _ERROR.size and error_of(body) > 0):
                    raise _refusal(body)
                if found == NLMSG_DONE:
                    return
                yield flags, body


def ask(kind: int, request: bytes, *, over: socket.socket | None = None) -> bytes:
    """The payload of the one message that answers. Raises OSError."""
    with _by(over) as end:
        end.send(packed(kind, NLM_F_REQUEST, request))
        for found, _flags, _sequence, body in each(end.recv(RECEIVE_BYTES)):
            if found == NLMSG_ERROR:
                raise _refusal(body)
            return body
    raise OSError(errno.EIO, "no answer")


def change(kind: int, flags: int, request: bytes, *, over: socket.socket | None = None) -> None:
    """Ask for a change, and wait until it is made. Raises OSError with the errno that the kernel refuses it with."""
    with _by(over) as end:
        end.send(packed(kind, NLM_F_REQUEST | NLM_F_ACK | flags, request))
        for found, _flags, _sequence, body in each(end.recv(RECEIVE_BYTES)):
            if found == NLMSG_ERROR and error_of(body):
                raise _refusal(body)


def _by(over: socket.socket | None) -> AbstractContextManager[socket.socket]:
    """A socket for the length of a block: the one that is given, which stays open, or one of its own."""
    return opened() if over is None else nullcontext(over)


def error_of(body: bytes) -> int:
    """The errno in the payload of NLMSG_ERROR; 0 in an acknowledgement."""
    return -int(_ERROR.unpack_from(body)[0])


def attributes(message: bytes, at: int = 0) -> dict[int, bytes]:
    """The attributes that begin there, by their numbers; of several with one number, the last."""
    found = {}
    # Not by `listed`: a generator takes twice the time, and there are a hundred thousand.
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & NLA_TYPE_MASK] = message[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return found


def listed(message: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes that begin there, in their order."""
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & NLA_TYPE_MASK, message[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, filled up to a multiple of four bytes."""
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + bytes(-size % 4)


def nested(kind: int, parts: Iterable[bytes]) -> bytes:
    """One attribute that holds others, and says so."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def byte(kind: int, value: int) -> bytes:
    """One attribute that is a number of one byte."""
    return attribute(kind, bytes([value]))


def word(kind: int, value: int) -> bytes:
    """One attribute that is a number of four bytes."""
    return attribute(kind, _NUMBER.pack(value))


def text(kind: int, value: str) -> bytes:
    """One attribute that is a string, which ends with a zero."""
    return attribute(kind, value.encode() + b"\0")


def number(data: bytes | None) -> int:
    """A number of four bytes; 0 where there is none."""
    found: int = _NUMBER.unpack(data)[0] if data else 0
    return found


def string(data: bytes | None) -> str | None:
    """A string; None where there is none."""
    return data.split(b"\0", 1)[0].decode(errors="replace") if data is not None else None


def _refusal(body: bytes) -> OSError:
    code = error_of(body)
    return OSError(code, os.strerror(code))

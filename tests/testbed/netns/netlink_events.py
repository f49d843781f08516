"""Netlink messages: the requests of this process to the kernel, and the events that the kernel multicasts."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.testbed.netns import namespaces

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NETLINK_NETFILTER, _NFNLGRP_NFTABLES = 12, 7
# More than any kernel has; joining one that is not there is refused and harmless.
_GROUPS = range(1, 64)
_VERBS = ("new", "delete", "get", "set")
_RTM_NEIGH, _RTM_MDB, _NUD_PERMANENT = 28, 84, 0x80
_NAMES: Mapping[int, str] = {16: "link", 20: "address", 24: "route", 28: "neighbour", 32: "rule", 80: "netconf"}


def messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the body of each message."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, at)
        assert length >= _HEADER.size
        yield kind, datagram[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def described(kind: int) -> str:
    """A type of rtnetlink(7) in words: the four of a kind of object are numbered new, delete, get, set."""
    base = kind & ~3
    return f"{_VERBS[kind & 3]} {_NAMES.get(base, base)}"


@contextmanager
def requests() -> Iterator[list[str]]:
    """What this process sends by rtnetlink(7) during the block, message by message."""
    found: list[str] = []
    real = socket.socket.send

    def send(self: socket.socket, data: bytes, *rest: int) -> int:
        if (self.family, self.proto) == (socket.AF_NETLINK, socket.NETLINK_ROUTE):
            found.extend(described(kind) for kind, _body in messages(bytes(data)))
        return real(self, data, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "send", send)
        yield found


class NetlinkListener:
    """Receives the events of one namespace, in all multicast groups of rtnetlink and in that of nftables.

    Neighbours and bridges' multicast groups that the kernel learns and forgets by itself are left out: traffic to etcd
    causes the former, any bridge the latter.
    """

    def __init__(self, namespace: str) -> None:
        """Begin to listen."""
        self._route, self._rules = namespaces.inside(namespace, lambda: (_all_groups(), _nftables()))

    def close(self) -> None:
        """Stop."""
        self._route.close()
        self._rules.close()

    def __enter__(self) -> NetlinkListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def events(self, *, within_s: float = 0) -> list[str]:
        """The events since the last call. Waits for the first one, for at most `within_s`."""
        found: list[str] = []
        poll = select.poll()
        for end in (self._route, self._rules):
            poll.register(end, select.POLLIN)
        deadline = time.monotonic() + within_s
        # Events that are left out end the poll too.
        while not found and (ready := poll.poll(max(0, deadline - time.monotonic()) * 1000)):
            for number, _event in ready:
                end = self._route if number == self._route.fileno() else self._rules
                with contextlib.suppress(BlockingIOError):
                    while True:
                        found += self._relevant(end, end.recv(65536))
        return found

    def _relevant(self, end: socket.socket, datagram: bytes) -> Iterator[str]:
        for kind, body in messages(datagram):
            if end is self._rules:
                yield f"nftables {kind & 0xFF}"
            elif kind & ~3 == _RTM_MDB:
                continue
            elif kind & ~3 != _RTM_NEIGH or struct.unpack_from("=H", body, 8)[0] & _NUD_PERMANENT:
                yield described(kind)


def _all_groups() -> socket.socket:
    end = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    end.bind((0, 0))
    for group in _GROUPS:
        with contextlib.suppress(OSError):
            end.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    end.setblocking(False)
    return end


def _nftables() -> socket.socket:
    end = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    end.bind((0, 0))
    end.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
    end.setblocking(False)
    return end

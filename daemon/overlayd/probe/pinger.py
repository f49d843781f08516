"""Sends ICMP echoes and waits for what comes back (icmp(7), raw(7), ipv6(7)): many at once, at a bounded rate."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType
from typing import Self

from overlayd.errors import PrivilegeError
from overlayd.probe import icmp

Address = IPv4Address | IPv6Address

RATE_PER_S = 500.0
RECEIVE_BYTES = 4 * 1024 * 1024
# linux/icmp.h, linux/icmpv6.h, linux/in.h, linux/in6.h: Python has no names for these.
SOL_RAW, ICMP_FILTER = 255, 1
SOL_ICMPV6, ICMP6_FILTER = 58, 1
IP_MTU_DISCOVER, IP_MTU = 10, 14
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24
# DF set, and the cached path MTU not looked at: every probe finds out for itself.
PMTUDISC_PROBE = 3


@dataclass(frozen=True, kw_only=True)
class Echo:
    """One echo to send: a whole IP packet of `packet_bytes` that nobody may fragment, from `source` if given."""

    target: Address
    packet_bytes: int
    source: Address | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one echo: a round trip, or why not. `hint_bytes`: a packet of that size would have been taken."""

    rtt_s: float | None = None
    problem: str | None = None
    hint_bytes: int | None = None


@dataclass
class _Line:
    """One socket: a family and a source address. `raw` sockets see everybody's ICMP, and keep their identifier."""

    version: int
    socket: socket.socket
    raw: bool
    ident: int


class Pinger:
    """Sends echoes and collects their outcomes. One thread; a context manager that closes its sockets."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, Address | None], _Line] = {}
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for line in self._lines.values():
            line.socket.close()
        self._lines = {}

    def exchange(self, echoes: Sequence[Echo], *, timeout_s: float) -> list[Outcome]:
        """Send all, RATE_PER_S at most, and wait for each `timeout_s` at most; their outcomes in the same order.

        Raises PrivilegeError where this user may open no ICMP socket.
        """
        outcomes: list[Outcome | None] = [None] * len(echoes)
        waiting: dict[tuple[int, int], _Sent] = {}
        poll = select.poll()
        unsent = list(enumerate(echoes))[::-1]
        due = last_sent = time.monotonic()
        while unsent or waiting:
            now = time.monotonic()
            if unsent and now >= due:
                index, echo = unsent.pop()
                outcomes[index] = self._send(index, echo, waiting, poll)
                due, last_sent = max(due + 1 / RATE_PER_S, now - 0.1), now
                continue
            if not unsent and now >= last_sent + timeout_s:
                break
            for descriptor, _events in poll.poll(1000 * ((due if unsent else last_sent + timeout_s) - now)):
                for sent, outcome in self._receive(descriptor, waiting):
                    outcomes[sent.index] = outcome
        return [outcome or Outcome(problem="no answer") for outcome in outcomes]

    def _send(self, index: int, echo: Echo, waiting: dict[tuple[int, int], _Sent], poll: select.poll) -> Outcome | None:
        """Send one and note it among `waiting`; an outcome only where it could not even be sent."""
        self._sequence = (self._sequence + 1) % 65536
        token = os.urandom(icmp.TOKEN_BYTES)
        try:
            line = self._line(echo.target.version, echo.source)
            message = icmp.echo_request(
                line.version, ident=line.ident, sequence=self._sequence, token=token, packet_bytes=echo.packet_bytes
            )
            sent = _Sent(index, echo.target, token, time.monotonic())
            line.socket.sendto(message, (str(echo.target), 0))
        except OSError as error:
            return _not_sent(echo, error)
        poll.register(line.socket, select.POLLIN)
        waiting[line.socket.fileno(), self._sequence] = sent
        return None

    def _receive(self, descriptor: int, waiting: dict[tuple[int, int], _Sent]) -> list[tuple[_Sent, Outcome]]:
        line = next(line for line in self._lines.values() if line.socket.fileno() == descriptor)
        found: list[tuple[_Sent, Outcome]] = []
        while True:
            try:
                packet, sender = line.socket.recvfrom(65536)
            except BlockingIOError:
                return found
            except OSError:
                continue
            now = time.monotonic()
            answer = icmp.parse(
                line.version, icmp.without_ip_header(packet) if line.raw and line.version == 4 else packet
            )
            if answer is None or (line.raw and answer.ident != line.ident):
                continue
            key = (descriptor, answer.sequence)
            sent = waiting.get(key)
            if sent is None:
                continue
            by = ip_address(str(sender[0]).partition("%")[0])
            if isinstance(answer, icmp.Reply):
                if by != sent.target or answer.token != sent.token:
                    continue
                found.append((sent, Outcome(rtt_s=now - sent.at)))
            else:
                found.append((sent, Outcome(problem=f"{answer.reason}, says {by}", hint_bytes=answer.mtu_bytes)))
            del waiting[key]

    def _line(self, version: int, source: Address | None) -> _Line:
        key = (version, source)
        if key not in self._lines:
            self._lines[key] = _open(version, source)
        return self._lines[key]


@dataclass(frozen=True)
class _Sent:
    index: int
    target: Address
    token: bytes
    at: float


def _open(version: int, source: Address | None) -> _Line:
    """An ICMP socket: raw where we may, else the kind that the kernel lends to users (ping_group_range)."""
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    raw = True
    try:
        opened = socket.socket(family, socket.SOCK_RAW, protocol)
    except PermissionError:
        raw = False
        try:
            opened = socket.socket(family, socket.SOCK_DGRAM, protocol)
        except PermissionError:
            raise PrivilegeError(
                "this user may open no ICMP socket",
                hint="run it as root, or let users ping: sysctl -w 'net.ipv4.ping_group_range=0 2147483647'",
            ) from None
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        if version == 4:
            opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
        if raw:
            _filter(opened, version)
        if source is not None:
            opened.bind((str(source), 0))
    except BaseException:
        opened.close()
        raise
    return _Line(version=version, socket=opened, raw=raw, ident=int.from_bytes(os.urandom(2)))


def _filter(opened: socket.socket, version: int) -> None:
    """Let through only what is of use; in both families a set bit keeps that type out."""
    if version == 4:
        mask = 0xFFFFFFFF & ~sum(1 << kind for kind in icmp.WANTED[4])
        opened.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", mask))
        return
    words = [0xFFFFFFFF] * 8
    for kind in icmp.WANTED[6]:
        words[kind >> 5] &= ~(1 << (kind & 31))
    opened.setsockopt(SOL_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *words))


def _not_sent(echo: Echo, error: OSError) -> Outcome:
    hint = _interface_mtu(echo) if error.errno == errno.EMSGSIZE else None
    problem = f"larger than this host's own interface takes ({hint})" if hint else f"not sent: {error.strerror}"
    return Outcome(problem=problem, hint_bytes=hint)


def _interface_mtu(echo: Echo) -> int | None:
    version = echo.target.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    level, option = (socket.IPPROTO_IP, IP_MTU) if version == 4 else (socket.IPPROTO_IPV6, IPV6_MTU)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect((str(echo.target), 9))
            return asked.getsockopt(level, option)
    except OSError:
        return None

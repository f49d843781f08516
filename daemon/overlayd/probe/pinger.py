"""Sends many ICMP echoes at a bounded rate and receives their answers (icmp(7), raw(7), ipv6(7))."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from overlayd.errors import PrivilegeError
from overlayd.lib.quick_dataclass import dataclass
from overlayd.probe import icmp
from overlayd.probe.peers import Address, LocalHost, SourceContainer, sender, source_of
from overlayd.probe.sockets import IP_MTU, IPV6_MTU, USUAL_HOPS, icmp_socket, set_hop_limit

RATE_PER_S = 500.0


class Wake:
    """Wakes a thread that waits for sockets. With `ends` set, the thread has to end."""

    def __init__(self) -> None:
        self.descriptor, self._other_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.ends = False

    def set(self) -> None:
        """Wake the thread, now or when it waits next."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._other_end, b"1")

    def clear(self) -> None:
        """Forget that it was woken."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)

    def close(self) -> None:
        """Close the pipe; no thread may wait any more."""
        os.close(self.descriptor)
        os.close(self._other_end)


@dataclass(frozen=True, kw_only=True)
class Echo:
    """One echo to send: a whole IP packet of `packet_bytes` that must not be fragmented, from `source` if given.

    `container` sends it instead of this host; `hops` is its hop limit; `note` is for the prober that receives it.
    """

    target: Address
    packet_bytes: int
    source: Address | None = None
    container: SourceContainer | None = None
    hops: int | None = None
    note: bytes = b""


def overlay_echo(
    target: Address,
    local: LocalHost,
    sources: Sequence[SourceContainer],
    *,
    note: bytes = b"",
    hops: int | None = None,
) -> Echo:
    """A small echo by the overlay, from the first of these containers with such an address, else from this host."""
    source = sender(sources, target.version)
    return Echo(
        target=target,
        packet_bytes=icmp.smallest(target.version) + len(note),
        source=None if source is not None else source_of(target.version, local),
        container=source,
        hops=hops,
        note=note,
    )


def underlay_echo(target: Address) -> Echo:
    """A small echo by the underlay."""
    return Echo(target=target, packet_bytes=icmp.smallest(target.version))


@dataclass(frozen=True, kw_only=True)
class EchoResult:
    """The round trip of one echo, or the problem. `refused_by` sent an ICMP error about it, with that `reason`.

    `hint_bytes` is the largest packet that the sender of the error, or this host's own interface, would take.
    """

    rtt_s: float | None = None
    problem: str | None = None
    hint_bytes: int | None = None
    reason: str | None = None
    refused_by: Address | None = None


@dataclass
class _Channel:
    """One socket: an IP version and a source. A `raw` one receives all ICMP, so that `ident` tells which is its own."""

    version: int
    socket: socket.socket
    raw: bool
    ident: int


class Pinger:
    """Sends echoes and collects their results. For one thread; a context manager that closes its sockets."""

    def __init__(self, *, heard: Callable[[Address, bytes], None] | None = None, wake: Wake | None = None) -> None:
        """`heard` is called with the sender and the note of each echo request that one of the sockets receives.

        `wake` ends a `listen`; it ends an `exchange` only with `ends` set.
        """
        self._channels: dict[tuple[int, Address | None, SourceContainer | None], _Channel] = {}
        self._sequence = 0
        self._heard = heard
        self._wake = wake

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all sockets. The next echo opens a new one."""
        for channel in self._channels.values():
            channel.socket.close()
        self._channels = {}

    def keep_only(self, wanted: Collection[SourceContainer]) -> None:
        """Close the sockets in all other containers."""
        for key, channel in list(self._channels.items()):
            if key[2] is not None and key[2] not in wanted:
                channel.socket.close()
                del self._channels[key]

    def open(self, version: int, container: SourceContainer) -> None:
        """Open a socket in a container, to receive requests there. Raises OSError."""
        self._channel(version, None, container)

    def listen(self, timeout_s: float) -> None:
        """Receive requests for so many seconds, or until woken."""
        poll = self._poll()
        for channel in self._channels.values():
            poll.register(channel.socket, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while not self._ends and (left_s := deadline - time.monotonic()) > 0:
            for descriptor, _events in poll.poll(1000 * left_s):
                if self._wake is not None and descriptor == self._wake.descriptor:
                    self._wake.clear()
                    return
                self._receive(descriptor, {})

    @property
    def _ends(self) -> bool:
        # The pipe wakes one wait only; another one may have emptied it.
        return self._wake is not None and self._wake.ends

    def _poll(self) -> select.poll:
        poll = select.poll()
        if self._wake is not None:
            poll.register(self._wake.descriptor, select.POLLIN)
        return poll

    def exchange(self, echoes: Sequence[Echo], *, timeout_s: float) -> list[EchoResult]:
        """Send all echoes, and wait `timeout_s` seconds after the last one. Returns their results in the same order.

        Raises PrivilegeError where this user may open no ICMP socket.
        """
        outcomes: list[EchoResult | None] = [None] * len(echoes)
        waiting: dict[tuple[int, int], _Sent] = {}
        poll = self._poll()
        unsent = list(enumerate(echoes))[::-1]
        due = last_sent = time.monotonic()
        while (unsent or waiting) and not self._ends:
            now = time.monotonic()
            if unsent and now >= due:
                index, echo = unsent.pop()
                outcomes[index] = self._send(index, echo, waiting, poll)
                due, last_sent = max(due + 1 / RATE_PER_S, now - 0.1), now
                continue
            if not unsent and now >= last_sent + timeout_s:
                break
            for descriptor, _events in poll.poll(1000 * ((due if unsent else last_sent + timeout_s) - now)):
                if self._wake is not None and descriptor == self._wake.descriptor:
                    self._wake.clear()
                    continue
                for sent, outcome in self._receive(descriptor, waiting):
                    outcomes[sent.index] = outcome
        return [outcome or EchoResult(problem="no answer") for outcome in outcomes]

    def _send(
        self, index: int, echo: Echo, waiting: dict[tuple[int, int], _Sent], poll: select.poll
    ) -> EchoResult | None:
        """Send an echo and add it to `waiting`. Returns a result only where it could not be sent."""
        self._sequence = (self._sequence + 1) % 65536
        token = os.urandom(icmp.TOKEN_BYTES)
        try:
            channel = self._channel(echo.target.version, echo.source, echo.container)
            message = icmp.echo_request(
                channel.version,
                ident=channel.ident,
                sequence=self._sequence,
                token=token,
                packet_bytes=echo.packet_bytes,
                note=echo.note,
            )
            if echo.hops is not None:
                set_hop_limit(channel.socket, channel.version, echo.hops)
            sent = _Sent(index, echo.target, token, time.monotonic())
            try:
                channel.socket.sendto(message, (str(echo.target), 0))
            finally:
                if echo.hops is not None:
                    set_hop_limit(channel.socket, channel.version, USUAL_HOPS)
        except OSError as error:
            return _not_sent(echo, error)
        poll.register(channel.socket, select.POLLIN)
        waiting[channel.socket.fileno(), self._sequence] = sent
        return None

    def _receive(self, descriptor: int, waiting: dict[tuple[int, int], _Sent]) -> list[tuple[_Sent, EchoResult]]:
        channel = next(channel for channel in self._channels.values() if channel.socket.fileno() == descriptor)
        found: list[tuple[_Sent, EchoResult]] = []
        while True:
            try:
                packet, sender = channel.socket.recvfrom(65536)
            except BlockingIOError:
                return found
            except OSError:
                continue
            now = time.monotonic()
            answer = icmp.parse(
                channel.version, icmp.without_ip_header(packet) if channel.raw and channel.version == 4 else packet
            )
            by = ip_address(str(sender[0]).partition("%")[0])
            if isinstance(answer, icmp.Request):
                if self._heard is not None:
                    self._heard(by, answer.note)
                continue
            if answer is None or (channel.raw and answer.ident != channel.ident):
                continue
            key = (descriptor, answer.sequence)
            sent = waiting.get(key)
            if sent is None:
                continue
            if isinstance(answer, icmp.Reply):
                if by != sent.target or answer.token != sent.token:
                    continue
                found.append((sent, EchoResult(rtt_s=now - sent.at)))
            else:
                words = f"{answer.reason}, says {by}"
                found.append(
                    (sent, EchoResult(problem=words, hint_bytes=answer.mtu_bytes, reason=answer.reason, refused_by=by))
                )
            del waiting[key]

    def _channel(self, version: int, source: Address | None, container: SourceContainer | None) -> _Channel:
        key = (version, source, container)
        if key not in self._channels:
            self._channels[key] = _open(version, source, container)
        return self._channels[key]


@dataclass(frozen=True)
class _Sent:
    index: int
    target: Address
    token: bytes
    at: float


def _open(version: int, source: Address | None, container: SourceContainer | None) -> _Channel:
    """An ICMP socket: raw where this user may, else the datagram kind of net.ipv4.ping_group_range."""
    raw = True
    if container is not None:
        opened = container.socket(version)
    else:
        try:
            opened = icmp_socket(version, hear_requests=False)
        except PermissionError:
            raw = False
            try:
                opened = icmp_socket(version, raw=False)
            except PermissionError:
                raise PrivilegeError(
                    "this user may open no ICMP socket",
                    hint="run it as root, or let users ping: sysctl -w 'net.ipv4.ping_group_range=0 2147483647'",
                ) from None
    try:
        if source is not None:
            opened.bind((str(source), 0))
    except BaseException:
        opened.close()
        raise
    return _Channel(version=version, socket=opened, raw=raw, ident=int.from_bytes(os.urandom(2)))


def _not_sent(echo: Echo, error: OSError) -> EchoResult:
    hint = _interface_mtu(echo) if error.errno == errno.EMSGSIZE else None
    problem = f"larger than this host's own interface takes ({hint})" if hint else f"not sent: {error.strerror}"
    return EchoResult(problem=problem, hint_bytes=hint)


def _interface_mtu(echo: Echo) -> int | None:
    version = echo.target.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    level, option = (socket.IPPROTO_IP, IP_MTU) if version == 4 else (socket.IPPROTO_IPV6, IPV6_MTU)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(echo.target), 9))
            return probe.getsockopt(level, option)
    except OSError:
        return None

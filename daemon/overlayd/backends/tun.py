"""The forwarder that works on every kernel: a TUN device, a UDP socket, and one thread of this process between them.

Packets to one peer that wait together leave in one system call (UDP_SEGMENT, Linux 4.18), and datagrams that arrive
together come in one (UDP_GRO, 5.0); on the wire each is a datagram of its own either way, as flannel's are. Kernels
without either are served one by one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from ipaddress import IPv4Address

from overlayd.backends.packets import (
    DESTINATION,
    SOURCE,
    TIME_EXCEEDED,
    UNREACHABLE,
    decrement_ttl,
    icmp_error,
    is_ipv4,
)
from overlayd.backends.peers import PeerTable
from overlayd.errors import KernelRefused, OverlaydError
from overlayd.kernel.tun import open_queue
from overlayd.lib.counters import counter
from overlayd.lib.log import logger

log = logger("udp")

DROPPED = counter(
    "overlayd_udp_dropped_packets_total",
    "What the udp forwarder did not let through. no lease: datagrams from strangers.",
    label="reason",
    known=("no lease", "foreign source", "malformed", "no hop left", "no route", "refused"),
)

# linux/in.h, linux/udp.h: Python's socket module does not name them.
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
UDP_SEGMENT, UDP_GRO = 103, 104
SOL_RAW, ICMP_FILTER = 255, 1
MOST_SEGMENTS = 64  # UDP_MAX_SEGMENTS of the oldest kernels that have it
LARGEST_DATAGRAM_BYTES = 65507
LARGEST_PACKET_BYTES = 65536
BUFFER_BYTES = 2 * LARGEST_PACKET_BYTES
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
# So much of one direction is moved before the other has its turn.
BURST_PACKETS = 128
BURST_DATAGRAMS = 8
POLL_MS = 200
RETRY_S = 0.5


class TunForwarder:
    """Moves bare IPv4 packets between a TUN device and a UDP port, for the peers of a table.

    `dropped` counts what this process did not let through, by reason. `table` may be replaced at any time, from any
    thread. `problem` says why nothing is carried, while that is so.
    """

    def __init__(self, *, device: str, local: IPv4Address, port: int) -> None:
        """Open device and port. Raises KernelRefused, UnsupportedError."""
        self.table = PeerTable((), port)
        self.dropped = DROPPED.values
        self.problem: str | None = None
        self._device = device
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._ancillary: dict[int, list[tuple[int, int, bytes]]] = {}
        self._tun = self._open_device()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # ICMP errors are sent as the host's own. Sent through the device they would be martians (RFC 1812, 5.3.7): a
        # packet that arrives there must not have a source address of this host.
        self._icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        try:
            self._icmp.setblocking(False)
            # Else every ICMP packet that the host receives would be queued here unread (ICMP_FILTER, raw(7)).
            self._icmp.setsockopt(SOL_RAW, ICMP_FILTER, b"\xff" * 4)
            self._segments = self._prepare_socket()
            self._udp.bind((str(local), port))
        except OSError as error:
            self.close()
            raise KernelRefused(
                "bind",
                f"UDP {local}:{port}",
                error.errno or 0,
                hint=f"see who has the port: ss -ulpn 'sport = :{port}'",
            ) from error

    def close(self) -> None:
        """Close both ends. The device stays."""
        self._close_device()
        self._udp.close()
        self._icmp.close()

    def run(self, stop: threading.Event) -> None:
        """Move packets both ways until `stop` is set. A device that somebody deletes is made again."""
        while not stop.is_set():
            try:
                if self._tun < 0:
                    self._tun = self._open_device()
                self.problem = None
                self._pump(stop)
            except OverlaydError as error:
                if self.problem != error.message:
                    log.error("cannot open the device", ifname=self._device, problem=error.message)
                self.problem = error.message
                stop.wait(RETRY_S)

    def _open_device(self) -> int:
        try:
            return open_queue(self._device)
        except OSError as error:
            raise KernelRefused(
                "open", f"TUN device {self._device}", error.errno or 0, hint="another process may have it open"
            ) from error

    def _close_device(self) -> None:
        if self._tun >= 0:
            os.close(self._tun)
            self._tun = -1

    def _prepare_socket(self) -> bool:
        """Set the options; whether packets can leave in batches."""
        self._udp.setblocking(False)
        # The outer packet may be fragmented: better slow than a black hole where the path is narrower than our MTU.
        self._udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._udp.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        with contextlib.suppress(OSError):
            self._udp.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        try:
            self._udp.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT)
        except OSError:
            return False
        return True

    def _pump(self, stop: threading.Event) -> None:
        """Move packets until `stop` is set or the device is gone, which is then closed."""
        poll = select.poll()
        poll.register(self._tun, select.POLLIN)
        poll.register(self._udp.fileno(), select.POLLIN)
        while not stop.is_set():
            for end, events in poll.poll(POLL_MS):
                if end != self._tun:
                    self._drain_udp()
                elif events & select.POLLIN:
                    self._drain_tun()
                else:
                    log.warning("the device is gone; making it again", ifname=self._device)
                    self._close_device()
                    return

    def _drain_tun(self) -> None:
        """Read what waits on the device and send it, in runs of equal packets for one peer."""
        buffer, view, tun, table = self._buffer, self._view, self._tun, self.table
        start = end = size = count = 0
        to: tuple[str, int] | None = None
        most = MOST_SEGMENTS if self._segments else 1
        for _ in range(BURST_PACKETS):
            if end > BUFFER_BYTES - LARGEST_PACKET_BYTES:
                self._send(start, end, size, to)
                start = end = count = 0
            try:
                length = os.readv(tun, [view[end:]])
            except BlockingIOError:
                break
            except OSError:
                self.dropped["refused"] += 1
                break
            peer = self._let_out(buffer, end, length, table)
            if peer is None:
                continue
            if count and (peer is not to or length > size or end + length - start > LARGEST_DATAGRAM_BYTES):
                self._send(start, end, size, to)
                start, count = end, 0
            if count == 0:
                to, size = peer, length
            count, end = count + 1, end + length
            # Only the last of a run may be shorter.
            if count == most or length < size:
                self._send(start, end, size, to)
                start, count = end, 0
        if count:
            self._send(start, end, size, to)

    def _let_out(self, buffer: bytearray, at: int, length: int, table: PeerTable) -> tuple[str, int] | None:
        """Where a packet from the device goes to, its hop spent; None if nowhere."""
        if not is_ipv4(buffer, at, length):
            return None  # the kernel's own IPv6 neighbour discovery, for one
        peer = table.find_host(int.from_bytes(buffer[at + DESTINATION : at + DESTINATION + 4]))
        if peer is None:
            self.dropped["no route"] += 1
            self._answer(buffer[at : at + length], *UNREACHABLE)
            return None
        if not decrement_ttl(buffer, at):
            self.dropped["no hop left"] += 1
            self._answer(buffer[at : at + length], *TIME_EXCEEDED)
            return None
        return peer

    def _send(self, start: int, end: int, size: int, to: tuple[str, int] | None) -> None:
        if to is None or start == end:
            return
        if end - start > size:
            ancillary = self._ancillary.get(size)
            if ancillary is None:
                ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
                self._ancillary[size] = ancillary
            try:
                self._udp.sendmsg([self._view[start:end]], ancillary, 0, to)
                return
            except BlockingIOError:
                self.dropped["refused"] += 1
                return
            except OSError:
                # EINVAL: a segment is larger than the route's MTU. One by one they are fragmented.
                pass
        for at in range(start, end, size):
            try:
                self._udp.sendto(self._view[at : min(at + size, end)], to)
            except OSError:
                # A full queue, no route for the moment, an ICMP error: the packet is lost, as packets are.
                self.dropped["refused"] += 1

    def _drain_udp(self) -> None:
        """Read what waits on the port and write to the device what a peer may send."""
        buffer, view, table = self._buffer, self._view, self.table
        for _ in range(BURST_DATAGRAMS):
            try:
                length, ancillary, _flags, sender = self._udp.recvmsg_into([buffer], 64)
            except BlockingIOError:
                return
            except OSError:
                self.dropped["refused"] += 1
                return
            size = length
            if ancillary and ancillary[0][1] == UDP_GRO:
                size = struct.unpack_from("=i", ancillary[0][2])[0]
            sources = table.sources(sender[0])
            if sources is None:
                self.dropped["no lease"] += -(-length // size) if size else 1
                continue
            for at in range(0, length, size or 1):
                self._let_in(buffer, view, at, min(size, length - at), sources)

    def _let_in(
        self, buffer: bytearray, view: memoryview, at: int, length: int, sources: tuple[tuple[int, int], ...]
    ) -> None:
        if not is_ipv4(buffer, at, length):
            self.dropped["malformed"] += 1
            return
        source = int.from_bytes(buffer[at + SOURCE : at + SOURCE + 4])
        for shift, base in sources:
            if source >> shift == base:
                break
        else:
            self.dropped["foreign source"] += 1
            return
        if not decrement_ttl(buffer, at):
            self.dropped["no hop left"] += 1
            return
        try:
            os.write(self._tun, view[at : at + length])
        except OSError:
            self.dropped["refused"] += 1  # the device is down

    def _answer(self, packet: bytearray, kind: int, code: int) -> None:
        answer = icmp_error(bytes(packet), kind, code)
        if answer is not None:
            sender, message = answer
            with contextlib.suppress(OSError):
                self._icmp.sendto(message, (str(sender), 0))

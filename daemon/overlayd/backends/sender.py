"""From the TUN device to peers: reads packets, and sends those for one peer in batches.

While the socket is full nothing is read: then packets wait in the device's queue, whose length is limited
(txqueuelen), and senders get slower.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from overlayd.backends.drops import DROPPED
from overlayd.backends.packets import (
    CHECKSUM,
    DESTINATION,
    HEADER_BYTES,
    SAME_HEADER,
    TIME_EXCEEDED,
    TTL,
    UNREACHABLE,
    decrement_ttl,
    icmp_error,
    is_ipv4,
)
from overlayd.backends.peers import PeerTable
from overlayd.backends.segments import PLAIN

# linux/udp.h: Python's socket module does not name it. Linux 4.18.
UDP_SEGMENT = 103
SOL_RAW, ICMP_FILTER = 255, 1
MOST_SEGMENTS = 64  # UDP_MAX_SEGMENTS of the oldest kernels that have it
LARGEST_DATAGRAM_BYTES = 65507
LARGEST_PACKET_BYTES = 65536
BUFFER_BYTES = 2 * LARGEST_PACKET_BYTES
# So much is moved before the other direction has its turn.
BURST_PACKETS, BURST_BYTES = 128, 4 * LARGEST_PACKET_BYTES

_Address = tuple[str, int]
_NOTHING_KNOWN = (0, -1)


class Sender:
    """One direction of the forwarder. Called in one thread."""

    def __init__(self, udp: socket.socket) -> None:
        """Send by this socket. Raises OSError."""
        self._udp = udp
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._vnet = bytearray(len(PLAIN))
        self._ancillary: dict[int, list[tuple[int, int, bytes]]] = {}
        self._dropped = DROPPED.values
        # At most what one burst found before the socket was full: the rest of a batch or two.
        self._waiting: list[tuple[memoryview, int, _Address]] = []
        try:
            udp.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT)
            self.batches = True
        except OSError:
            self.batches = False
        # ICMP errors are sent as the host's own. Sent through the device they would be martians (RFC 1812, 5.3.7): a
        # packet that arrives there must not have a source address of this host.
        self._icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._icmp.setblocking(False)
        # Else every ICMP packet that the host receives would be queued here unread (ICMP_FILTER, raw(7)).
        self._icmp.setsockopt(SOL_RAW, ICMP_FILTER, b"\xff" * 4)

    def close(self) -> None:
        """Close what is its own: not the socket that it was given."""
        self._icmp.close()

    @property
    def is_full(self) -> bool:
        """Whether something waits for room in the socket; then nothing is read."""
        return bool(self._waiting)

    def resume(self) -> None:
        """Send what waits, as far as there is room."""
        waiting, self._waiting = self._waiting, []
        for data, size, to in waiting:
            self._send(data, size, to)

    def give_up(self) -> None:
        """Drop what waits: the socket was full for too long."""
        for data, size, _to in self._waiting:
            self._dropped["refused"] += -(-len(data) // size)
        self._waiting.clear()

    def drain(self, tun: int, table: PeerTable) -> None:
        """Read what waits on the device and send it, in runs of equal packets for one peer."""
        buffer, view = self._buffer, self._view
        start = end = size = count = moved = 0
        to: _Address = ("", 0)
        peer: _Address | None = None
        known = _NOTHING_KNOWN
        most = MOST_SEGMENTS if self.batches else 1
        for _ in range(BURST_PACKETS):
            if end > BUFFER_BYTES - LARGEST_PACKET_BYTES:
                self._send(view[start:end], size, to)
                start = end = count = 0
            if self._waiting or moved > BURST_BYTES:
                break
            length = self._read(tun, end)
            if not length:
                break
            moved += length
            header = length, int.from_bytes(buffer[end : end + HEADER_BYTES]) & SAME_HEADER
            if header == known and buffer[end + CHECKSUM] < 0xFE:
                # As the one before, of which all is known.
                buffer[end + TTL] -= 1
                buffer[end + CHECKSUM] += 1
            else:
                peer = self._let_out(buffer, end, length, table)
                known = _NOTHING_KNOWN if peer is None else header
            if peer is None:
                continue
            if count and (peer is not to or length > size or end + length - start > LARGEST_DATAGRAM_BYTES):
                self._send(view[start:end], size, to)
                start, count = end, 0
            if count == 0:
                to, size = peer, length
            count, end = count + 1, end + length
            # Only the last of a run may be shorter.
            if count == most or length < size:
                self._send(view[start:end], size, to)
                start, count = end, 0
        self._send(view[start:end], size, to)

    def _read(self, tun: int, at: int) -> int:
        """Read a packet to this place of the buffer; its length, 0 if there is none."""
        try:
            return os.readv(tun, [self._vnet, self._view[at:]]) - len(PLAIN)
        except BlockingIOError:
            return 0
        except OSError:
            self._dropped["refused"] += 1
            return 0

    def _let_out(self, buffer: bytearray, at: int, length: int, table: PeerTable) -> _Address | None:
        """Where a packet from the device goes to, its hop spent; None if nowhere."""
        if not is_ipv4(buffer, at, length):
            return None  # the kernel's own IPv6 neighbour discovery, for one
        peer = table.find_host(int.from_bytes(buffer[at + DESTINATION : at + HEADER_BYTES]))
        if peer is None:
            self._dropped["no route"] += 1
            self._answer(buffer[at : at + length], *UNREACHABLE)
            return None
        if not decrement_ttl(buffer, at):
            self._dropped["no hop left"] += 1
            self._answer(buffer[at : at + length], *TIME_EXCEEDED)
            return None
        return peer

    def _send(self, data: memoryview, size: int, to: _Address) -> None:
        """Send datagrams of `size` bytes each, the last one may be shorter, or keep them while the socket is full."""
        if self._waiting and data:
            self._waiting.append((data, size, to))
            return
        step = size * min(MOST_SEGMENTS, LARGEST_DATAGRAM_BYTES // size) if self.batches and size else size
        sent = 0
        try:
            while sent < len(data):
                batch = data[sent : sent + step]
                if len(batch) <= size or not self._send_batch(batch, size, to):
                    batch = data[sent : sent + size]
                    self._send_one(batch, to)
                sent += len(batch)
        except BlockingIOError:
            self._waiting.append((data[sent:], size, to))

    def _send_batch(self, data: memoryview, size: int, to: _Address) -> bool:
        """Whether all of it was sent. Raises BlockingIOError."""
        ancillary = self._ancillary.get(size)
        if ancillary is None:
            ancillary = self._ancillary[size] = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        try:
            self._udp.sendmsg([data], ancillary, 0, to)
        except BlockingIOError:
            raise
        except OSError:
            # EINVAL: a segment is larger than the route's MTU. One by one they are fragmented.
            return False
        return True

    def _send_one(self, data: memoryview, to: _Address) -> None:
        try:
            self._udp.sendto(data, to)
        except BlockingIOError:
            raise
        except OSError:
            # A full queue, no route for the moment, an ICMP error: the packet is lost, as packets are.
            self._dropped["refused"] += 1

    def _answer(self, packet: bytearray, kind: int, code: int) -> None:
        answer = icmp_error(bytes(packet), kind, code)
        if answer is not None:
            sender, message = answer
            with contextlib.suppress(OSError):
                self._icmp.sendto(message, (str(sender), 0))

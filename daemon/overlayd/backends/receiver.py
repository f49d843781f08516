"""From peers to the TUN device: reads datagrams, lets in what a peer may send, and joins segments of one TCP flow."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence

from overlayd.backends import segments
from overlayd.backends.drops import DROPPED
from overlayd.backends.packets import (
    CHECKSUM,
    HEADER_BYTES,
    PROTOCOL,
    SAME_HEADER,
    SOURCE,
    TTL,
    decrement_ttl,
    is_ipv4,
)
from overlayd.backends.peers import PeerTable
from overlayd.backends.segments import PLAIN, TCP

# linux/udp.h: Python's socket module does not name it. Linux 5.0.
UDP_GRO = 104
BUFFER_BYTES = 65536
# So much is moved before the other direction has its turn.
BURST_DATAGRAMS = 8

_Sources = tuple[tuple[int, int], ...]


class Receiver:
    """One direction of the forwarder. Called in one thread."""

    def __init__(self, udp: socket.socket, *, mtu_bytes: int) -> None:
        """Receive from this socket; `mtu_bytes` is the device's."""
        self._udp = udp
        self._mtu_bytes = mtu_bytes
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._dropped = DROPPED.values
        self.batches = False
        with contextlib.suppress(OSError):
            udp.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            self.batches = True

    def drain(self, tun: int, table: PeerTable) -> None:
        """Read what waits on the port and write to the device what a peer may send."""
        for _ in range(BURST_DATAGRAMS):
            try:
                length, ancillary, _flags, sender = self._udp.recvmsg_into([self._buffer], 64)
            except BlockingIOError:
                return
            except OSError:
                self._dropped["refused"] += 1
                return
            size = 0
            if ancillary and ancillary[0][1] == UDP_GRO:
                size = struct.unpack_from("=i", ancillary[0][2])[0]
            sources = table.sources(sender[0])
            if sources is None:
                self._dropped["no lease"] += -(-length // size) if size else 1
            elif 0 < size < length and not is_ipv4(self._buffer, 0, length):
                self._let_in_batch(tun, length, size, sources)
            elif self._may_enter(0, length, sources):
                packet = self._view[:length]
                decrement_ttl(self._buffer, 0)
                self._write(tun, [segments.describe(packet, self._mtu_bytes, size), packet])

    def _let_in_batch(self, tun: int, length: int, size: int, sources: _Sources) -> None:
        """Let in datagrams of `size` bytes each, the last one may be shorter.

        The kernel joins none without a checksum of the datagram's own (net/ipv4/udp_offload.c), so each is as a
        socket sent it: finished.
        """
        buffer, view = self._buffer, self._view
        at, single, known = 0, 0, (0, -1)
        while at < length:
            step = min(size, length - at)
            header = step, int.from_bytes(buffer[at : at + HEADER_BYTES]) & SAME_HEADER
            if header != known:
                if not self._may_enter(at, step, sources):
                    at += step
                    continue
                known = header
            if buffer[at + PROTOCOL] == TCP and at >= single:
                run = segments.join(view, at, length, step)
                if run is not None and run.parts:
                    self._write(tun, run.parts)
                    at = run.end
                    continue
                single = at if run is None else run.end
            if buffer[at + CHECKSUM] < 0xFE:
                buffer[at + TTL] -= 1
                buffer[at + CHECKSUM] += 1
            else:
                decrement_ttl(buffer, at)
            self._write(tun, (PLAIN, view[at : at + step]))
            at += step

    def _may_enter(self, at: int, length: int, sources: _Sources) -> bool:
        """Whether a peer with these sources may send the packet, and it has a hop left."""
        buffer = self._buffer
        if not is_ipv4(buffer, at, length):
            self._dropped["malformed"] += 1
            return False
        source = int.from_bytes(buffer[at + SOURCE : at + SOURCE + 4])
        for shift, base in sources:
            if source >> shift == base:
                break
        else:
            self._dropped["foreign source"] += 1
            return False
        if buffer[at + TTL] <= 1:
            self._dropped["no hop left"] += 1
            return False
        return True

    def _write(self, tun: int, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        try:
            os.writev(tun, parts)
        except OSError:
            self._dropped["refused"] += 1  # the device is down

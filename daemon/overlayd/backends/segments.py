"""Large packets and their segments, as a TUN device with a virtio-net header takes them. Pure.

The header is struct virtio_net_hdr (linux/virtio_net.h; virtio 1.2, 5.1.6). What the kernel makes of one that it is
given: include/linux/virtio_net.h in its sources.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from overlayd.backends.packets import CHECKSUM, DESTINATION, HEADER_BYTES, PROTOCOL, SOURCE

VNET = struct.Struct("=BBHHHH")
"""Flags, kind of segments, bytes of all headers, bytes of data in a segment, where to sum from, where the sum goes."""
PLAIN = bytes(VNET.size)
"""The header of a packet that is as it is on the wire."""
NEEDS_CHECKSUM = 1
TCP_SEGMENTS, UDP_SEGMENTS, WITH_CWR = 1, 5, 0x80
TCP, UDP = 6, 17
ACK, PSH, CWR = 0x10, 0x08, 0x80
# Where the transport's header has its checksum.
_CHECKSUM_AT = {TCP: 16, UDP: 6}
_SHORT_BITS = 1024
_Bytes = bytes | bytearray | memoryview
_number = int.from_bytes


def ones_sum(data: _Bytes) -> int:
    """The sum of 16-bit words modulo 65535: RFC 1071's, where 0 and 0xFFFF are the same. An odd last byte is padded.

    Of 1,400 bytes it takes 3 µs, half of which is the making of the number.
    """
    length = len(data)
    return _remainder(_number(data) << 8 if length & 1 else _number(data), length)


def _remainder(value: int, length: int) -> int:
    """The remainder modulo 65535 of a number of so many bytes.

    Sixteen bits more or less do not change it. The number is halved until it is short, as Python's division by a small
    number takes ten times as long as its addition.
    """
    for bits, mask in _halves(length):
        value = (value >> bits) + (value & mask)
    return value % 65535


@lru_cache(maxsize=32)
def _halves(length: int) -> tuple[tuple[int, int], ...]:
    """Where a number of so many bytes is halved, as bits and their mask; each is a multiple of 16 bits."""
    bits, found = 8 * length, []
    while bits > _SHORT_BITS:
        bits = (bits >> 5) + 1 << 4
        found.append((bits, (1 << bits) - 1))
    return tuple(found)


def _pseudo_sum(packet: _Bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo-header (RFC 9293, 3.1) of so many bytes of transport header and data."""
    return _number(packet[SOURCE:DESTINATION]) + _number(packet[DESTINATION:HEADER_BYTES]) + protocol + length


class _Layout(NamedTuple):
    """For TCP segments with so many bytes of headers, read as one large number: a mask, and places in it."""

    same: int
    """What consecutive segments have in common; the sequence number too, as it follows from the one before."""
    sequence: int
    length: int
    push: int


def _layout(head_bytes: int) -> _Layout:
    mask = bytearray(b"\xff" * head_bytes)
    # The identification, which says nothing where fragments are forbidden (RFC 6864), both checksums, and PSH.
    for at in (4, 5, 10, 11, 36, 37):
        mask[at] = 0
    mask[33] = 0xFF ^ PSH
    return _Layout(
        same=_number(mask),
        sequence=8 * (head_bytes - 28),
        length=8 * (head_bytes - 4),
        push=PSH << 8 * (head_bytes - 34),
    )


_LAYOUTS = {head_bytes: _layout(head_bytes) for head_bytes in range(40, 81, 4)}


class Run(NamedTuple):
    """Consecutive segments of one TCP flow: where the last one ends, and all as one packet for the device.

    `parts` are the virtio-net header, the packet's headers with a hop spent, and the data of each segment. There are
    none where a checksum is wrong: each segment goes on by itself then, for its receiver to see that.
    """

    end: int
    parts: list[_Bytes]


def join(view: memoryview, at: int, end: int, size: int) -> Run | None:
    """The run of TCP segments that begins at `at`: of `size` bytes each, the last one may be shorter.

    None where there are not two that may be one: the rules are the kernel's (net/ipv4/tcp_offload.c) or stricter. The
    caller has checked that there is an IPv4 packet of `size` bytes at `at`, with a hop to spend. What was one of
    several has no checksum of its own any more, so all are verified here.
    """
    # No options of IP; DF and no fragment; no flags but ACK, of which a run may end with PSH.
    if size & 1 or size <= 40 or view[at] != 0x45 or view[at + PROTOCOL] != TCP or view[at + 6] != 0x40 or view[at + 7]:
        return None
    head_bytes = 20 + (view[at + 32] >> 4) * 4
    if view[at + 33] != ACK or view[at + 32] & 0x0F or not 40 <= head_bytes < size:
        return None
    mask, sequence, length_at, push = _LAYOUTS[head_bytes]
    step = (size - head_bytes) << sequence
    # Each segment is read as one number, which is both: its headers, and a summand of what verifies all of them.
    behind = 8 * (size - head_bytes)
    total = _number(view[at : at + size])
    expected = total >> behind & mask
    parts: list[_Bytes] = [b"", b"", view[at + head_bytes : at + size]]
    here, pushed = at + size, 0
    while not pushed and here + head_bytes < end:
        expected += step
        stop = min(here + size, end)
        value = _number(view[here:stop])
        if lacking := here + size - stop:
            expected -= lacking << length_at
            value <<= 8 * lacking
        found = value >> behind
        if found & mask != expected:
            break
        parts.append(view[here + head_bytes : stop])
        total += value
        pushed = found & push
        here = stop
    count, length = len(parts) - 2, here - at
    if count < 2:
        return None
    # The sum over IP's header is 0, and that over the rest complements the pseudo-header's.
    pseudo = _pseudo_sum(view[at : at + HEADER_BYTES], TCP, 0)
    if (_remainder(total, size) + count * (pseudo - HEADER_BYTES) + length) % 65535:
        return Run(here, [])
    head = bytearray(view[at : at + head_bytes])
    whole = length - (count - 1) * head_bytes
    head[2:4] = whole.to_bytes(2)
    head[8] -= 1
    head[CHECKSUM:SOURCE] = bytes(2)
    head[CHECKSUM:SOURCE] = (-ones_sum(head[:HEADER_BYTES]) % 65535).to_bytes(2)
    head[33] |= PSH if pushed else 0
    head[36:38] = ((pseudo + whole - HEADER_BYTES) % 65535).to_bytes(2)
    parts[0] = VNET.pack(NEEDS_CHECKSUM, TCP_SEGMENTS, head_bytes, size - head_bytes, HEADER_BYTES, _CHECKSUM_AT[TCP])
    parts[1] = head
    return Run(here, parts)


def describe(packet: memoryview, largest: int, data_bytes: int = 0) -> bytes:
    """The virtio-net header for a packet that came as one datagram.

    Between two stacks of one machine a peer's program (daemon/bpf/) hands packets over as they are in its kernel: not
    cut yet, and with the sum of the pseudo-header in place of the checksum. Of 65536 finished packets one has that sum
    by chance; its checksum is computed again, to the same value. `largest` is the device's MTU, `data_bytes` what the
    kernel says that UDP datagrams in it have. A large packet that is none of these is plain, and the kernel refuses it.
    """
    at = (packet[0] & 15) * 4
    protocol = packet[PROTOCOL]
    offset = _CHECKSUM_AT.get(protocol)
    length = len(packet) - at
    if offset is None or length < offset + 4 - (protocol == UDP) * 2 or (packet[6] << 8 | packet[7]) & 0x3FFF:
        return PLAIN
    check = packet[at + offset] << 8 | packet[at + offset + 1]
    if not check or (_pseudo_sum(packet, protocol, length) - check) % 65535:
        return PLAIN
    if protocol == UDP:
        if packet[at + 4] << 8 | packet[at + 5] != length:
            return PLAIN
        kind = UDP_SEGMENTS if data_bytes and length - 8 > data_bytes else 0
        head_bytes = at + 8
    else:
        head_bytes = at + (packet[at + 12] >> 4) * 4
        if not at + 20 <= head_bytes <= len(packet):
            return PLAIN
        data_bytes = largest - head_bytes
        kind = TCP_SEGMENTS if len(packet) > largest and data_bytes > 0 else 0
        if kind and packet[at + 13] & CWR:
            kind |= WITH_CWR
    return VNET.pack(NEEDS_CHECKSUM, kind, head_bytes, data_bytes if kind else 0, at, offset)

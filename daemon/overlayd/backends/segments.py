"""Large packets and their segments, as a TUN device with a virtio-net header hands them over. Pure.

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
_PLACES, _WORD = struct.Struct("=HH"), struct.Struct("!H")
PLAIN = bytes(VNET.size)
"""The header of a packet that is as it is on the wire."""
NEEDS_CHECKSUM = 1
TCP_SEGMENTS, UDP_SEGMENTS, WITH_CWR = 1, 5, 0x80
TCP, UDP = 6, 17
ACK, PSH, FIN, CWR = 0x10, 0x08, 0x01, 0x80
# Where the transport's header has its checksum.
_CHECKSUM_AT = {TCP: 16, UDP: 6}
_PROTOCOL_OF = {TCP_SEGMENTS: TCP, UDP_SEGMENTS: UDP}
_SHORT_BITS = 1024
# 64 KB in segments of 48 bytes, Linux's least (tcp_min_snd_mss). A container could give one that takes us a second.
_SEGMENTS_AT_MOST = 65536 // 48
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


def finish(view: memoryview, at: int, end: int, vnet: _Bytes) -> bool:
    """Compute the checksum that a virtio-net header asks for, in the packet from `at` to `end`.

    False, and no change, where it asks for an impossible one. Zero is written as 0xFFFF, as the kernel does (RFC 768:
    zero is none).
    """
    start, offset = _PLACES.unpack_from(vnet, 6)
    first = at + start
    place = first + offset
    if place + 2 > end:
        return False
    length = end - first
    value = _number(view[first:end])
    if length & 1:
        value <<= 8
    value = value % 65535 if length <= _SHORT_BITS // 8 else _remainder(value, length)
    _WORD.pack_into(view, place, 65535 - value)
    return True


def cut(packet: memoryview, vnet: _Bytes) -> tuple[bytes, int] | None:
    """The segments of a large packet, finished, behind each other, and the length of each; the last may be shorter.

    None where packet and header are not one of TCP or UDP over IPv4 that can be cut.
    """
    _flags, kind, _bytes, data_bytes, *_ = VNET.unpack(vnet)
    protocol = _PROTOCOL_OF.get(kind & ~WITH_CWR)
    at = (packet[0] & 15) * 4
    # A fragment has no whole transport header.
    if (
        protocol != packet[PROTOCOL]
        or (packet[6] << 8 | packet[7]) & 0x3FFF
        or not HEADER_BYTES <= at <= len(packet) - 8
    ):
        return None
    head_bytes = at + 8
    if protocol == TCP:
        head_bytes = at + (packet[at + 12] >> 4) * 4 if len(packet) >= at + 20 else 0
    if not at + 8 <= head_bytes < len(packet) or (protocol == TCP and head_bytes < at + 20) or not data_bytes:
        return None
    if len(packet) - head_bytes > data_bytes * _SEGMENTS_AT_MOST:
        return None
    write = _tcp_headers if protocol == TCP else _udp_headers
    return b"".join(write(packet, at, head_bytes, data_bytes)), head_bytes + data_bytes


def _tcp_headers(packet: memoryview, at: int, head_bytes: int, data_bytes: int) -> list[_Bytes]:
    """Headers and data of each segment in turn. FIN and PSH are the last one's, CWR is the first one's (RFC 3168)."""
    head = bytearray(packet[:head_bytes])
    identification, sequence = _number(head[4:6]), _number(head[at + 4 : at + 8])
    last_flags = head[at + 13]
    window = bytes(head[at + 14 : at + 16])
    flags = last_flags & ~(FIN | PSH)
    length = head_bytes + data_bytes
    # What differs between segments is left out of these sums.
    for start, end in ((2, 6), (CHECKSUM, SOURCE), (at + 4, at + 8), (at + 13, at + 14), (at + 16, at + 18)):
        head[start:end] = bytes(end - start)
    ip_sum = ones_sum(head[:at]) + length
    tcp_sum = ones_sum(head[at:]) + _pseudo_sum(head, TCP, length - at)
    pack = struct.Struct(f"!2sHH4sH{at + 4 - SOURCE}sI5sB2sH{head_bytes - at - 18}s").pack
    kind, fragment, addresses = bytes(head[:2]), bytes(head[6:CHECKSUM]), bytes(head[SOURCE : at + 4])
    acknowledged, rest = bytes(head[at + 8 : at + 13]), bytes(head[at + 18 :])
    parts: list[_Bytes] = []
    for here in range(head_bytes, len(packet), data_bytes):
        data = packet[here : here + data_bytes]
        if here + data_bytes >= len(packet):
            lacking = data_bytes - len(data)
            length, ip_sum, tcp_sum = length - lacking, ip_sum - lacking, tcp_sum - lacking
            # What is cut into one has both.
            flags = last_flags if here == head_bytes else last_flags & ~CWR
        ip_check = -(ip_sum + identification) % 65535
        tcp_check = -(tcp_sum + sequence + flags + ones_sum(data)) % 65535
        parts.append(
            pack(
                kind, length, identification, fragment, ip_check, addresses,
                sequence, acknowledged, flags, window, tcp_check, rest,
            )
        )  # fmt: skip
        parts.append(data)
        flags &= ~CWR
        sequence = sequence + data_bytes & 0xFFFFFFFF
        identification = identification + 1 & 0xFFFF
    return parts


def _udp_headers(packet: memoryview, at: int, head_bytes: int, data_bytes: int) -> list[_Bytes]:
    """Headers and data of each datagram in turn."""
    head = bytearray(packet[:head_bytes])
    identification = _number(head[4:6])
    parts: list[_Bytes] = []
    for here in range(head_bytes, len(packet), data_bytes):
        data = packet[here : here + data_bytes]
        length = head_bytes + len(data)
        head[2:6] = struct.pack("!HH", length, identification)
        head[CHECKSUM:SOURCE] = bytes(2)
        head[CHECKSUM:SOURCE] = (-ones_sum(head[:at]) % 65535).to_bytes(2)
        head[at + 4 : at + 8] = struct.pack("!HH", length - at, 0)
        total = ones_sum(head[at:]) + ones_sum(data) + _pseudo_sum(head, UDP, length - at)
        head[at + 6 : at + 8] = (-total % 65535 or 0xFFFF).to_bytes(2)
        parts += bytes(head), data
        identification = identification + 1 & 0xFFFF
    return parts


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

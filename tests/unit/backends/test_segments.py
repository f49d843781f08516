"""Segments are joined as the kernel would, and no harm in them is hidden; bytes in, bytes out."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from overlayd.backends import segments
from overlayd.backends.packets import checksum, is_ipv4
from overlayd.backends.segments import ACK, CWR, NEEDS_CHECKSUM, PSH, TCP, TCP_SEGMENTS, UDP, UDP_SEGMENTS, VNET

FROM, TO = IPv4Address("10.5.1.2").packed, IPv4Address("10.5.2.2").packed
DATA = random.Random(5).randbytes(65000)


def pseudo(protocol: int, length: int) -> bytes:
    return FROM + TO + struct.pack("!BBH", 0, protocol, length)


def ip(payload: bytes, protocol: int, *, options: bytes = b"", identification: int = 1) -> bytes:
    """An IPv4 packet that must not be fragmented, with a right checksum."""
    length = 20 + len(options) + len(payload)
    first = 0x45 + len(options) // 4
    head = struct.pack("!BBHHHBBH", first, 0, length, identification, 0x4000, 64, protocol, 0) + FROM + TO + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def tcp(data: bytes, *, sequence: int = 7, flags: int = ACK, options: bytes = b"", identification: int = 1) -> bytes:
    """A packet of TCP whose checksum is right."""
    offset = (20 + len(options)) // 4 << 4
    segment = struct.pack("!HHIIBBHHH", 5001, 40000, sequence, 99, offset, flags, 501, 0, 0) + options + data
    check = checksum(pseudo(TCP, len(segment)) + segment)
    return ip(segment[:16] + struct.pack("!H", check) + segment[18:], TCP, identification=identification)


def udp(data: bytes, *, options: bytes = b"", identification: int = 1) -> bytes:
    """A packet of UDP whose checksum is right."""
    datagram = struct.pack("!HHHH", 5001, 40000, 8 + len(data), 0) + data
    check = checksum(pseudo(UDP, len(datagram)) + datagram) or 0xFFFF
    return ip(
        datagram[:6] + struct.pack("!H", check) + datagram[8:], UDP, options=options, identification=identification
    )


def unfinished(packet: bytes) -> bytearray:
    """The packet with the sum of the pseudo-header in place of its checksum, as the kernel leaves it to a device."""
    made = bytearray(packet)
    at, protocol = (packet[0] & 15) * 4, packet[9]
    offset = at + (16 if protocol == TCP else 6)
    made[offset : offset + 2] = struct.pack("!H", ~checksum(pseudo(protocol, len(packet) - at)) & 0xFFFF)
    return made


options = st.integers(0, 10).map(lambda words: b"\1" * 4 * words)


@given(st.binary(max_size=3000))
def test_the_sum_is_that_of_rfc_1071(data: bytes) -> None:
    assert -segments.ones_sum(data) % 65535 == checksum(data) % 65535


def test_the_sum_of_the_largest_packet() -> None:
    assert -segments.ones_sum(DATA) % 65535 == checksum(DATA)
    assert segments.ones_sum(b"\xff" * 65000) == 0


def batch(count: int, size: int, last: int, *, flags: int = ACK, of_tcp: bytes = b"", sequence: int = 1) -> bytearray:
    """Segments of `size` bytes of data, the last one of `last`."""
    parts = []
    for number in range(count):
        end = number == count - 1
        parts.append(
            tcp(
                DATA[number * size :][: last if end else size],
                sequence=sequence + number * size,
                flags=flags if end else ACK,
                options=of_tcp,
                identification=number,
            )
        )
    return bytearray(b"".join(parts))


@given(
    count=st.integers(2, 12),
    half=st.integers(1, 700),
    short=st.integers(0, 1399),
    push=st.booleans(),
    of_tcp=options,
)
def test_joined_segments_are_one_packet_with_all_their_data(
    count: int, half: int, short: int, push: bool, of_tcp: bytes
) -> None:
    size = 2 * half
    last = max(1, size - short)
    buffer = batch(count, size, last, flags=ACK | PSH if push else ACK, of_tcp=of_tcp)
    bytes_each = 40 + len(of_tcp) + size
    # What is around them in the forwarder's buffer is of packets before.
    run = segments.join(memoryview(DATA[:40] + buffer + DATA), 40, 40 + len(buffer), bytes_each)
    assert run is not None
    assert run.end == 40 + len(buffer)
    header, *parts = run.parts
    whole = bytearray(b"".join(parts))
    assert checksum(bytes(whole[:20])) == 0
    assert is_ipv4(whole, 0, len(whole))
    assert whole[8] == 63
    assert whole == unfinished(bytes(whole))
    flags, kind, head_bytes, data_bytes, start, offset = VNET.unpack(header)
    assert (flags, kind, start, offset) == (NEEDS_CHECKSUM, TCP_SEGMENTS, 20, 16)
    assert (head_bytes, data_bytes) == (40 + len(of_tcp), size)
    assert bytes(whole[head_bytes:]) == DATA[: (count - 1) * size + last]
    # What differs from the first segment's headers: length, a hop, checksums, and PSH.
    first = bytearray(buffer[:head_bytes])
    for at in (2, 3, 8, 10, 11, 36, 37):
        first[at] = whole[at]
    first[33] |= PSH if push else 0
    assert whole[:head_bytes] == first


@given(st.data())
def test_no_changed_bit_gets_lost_in_a_joined_packet(data: st.DataObject) -> None:
    count, size = 6, 42
    buffer = batch(count, size, 11, flags=ACK | PSH, of_tcp=b"\1" * 12)
    bit = data.draw(st.integers(0, 8 * len(buffer) - 1))
    buffer[bit // 8] ^= 1 << bit % 8
    run = segments.join(memoryview(buffer), 0, len(buffer), 52 + size)
    assert run is None or not run.parts or run.end <= bit // 8


def test_only_what_follows_in_order_is_joined() -> None:
    size = 140

    def joined(buffer: bytes | bytearray) -> int:
        run = segments.join(memoryview(buffer), 0, len(buffer), size)
        return run.end // size if run is not None and run.parts else 0

    one, two, three = (tcp(DATA[:100], sequence=sequence) for sequence in (0, 100, 200))
    assert joined(one + two + three) == 3
    assert joined(one + three + two) == 0
    assert joined(one + two + one) == 2
    assert joined(one + tcp(DATA[:100], sequence=100, flags=ACK | PSH) + three) == 2
    for flags in (ACK | 0x01, ACK | 0x04, ACK | 0x02, ACK | 0x20, ACK | 0x40, ACK | CWR, 0):
        assert joined(one + tcp(DATA[:100], sequence=100, flags=flags)) == 0
        assert joined(tcp(DATA[:100], sequence=0, flags=flags) + two) == 0
    assert joined(udp(DATA[:112]) + udp(DATA[:112])) == 0
    for at, value in ((6, 0), (6, 0x20), (7, 1), (1, 3), (8, 9), (0, 0x46)):
        other = bytearray(two)
        other[at] = value
        assert joined(one + other) == 0
    acknowledgement = tcp(b"")
    assert segments.join(memoryview(acknowledgement * 3), 0, 120, 40) is None


def test_an_uncut_packet_of_a_peers_program_is_cut_by_our_kernel() -> None:
    large = unfinished(tcp(DATA[:30000], flags=ACK | CWR))
    kind = TCP_SEGMENTS | segments.WITH_CWR
    assert segments.describe(memoryview(large), 1472) == VNET.pack(NEEDS_CHECKSUM, kind, 40, 1432, 20, 16)
    several = unfinished(udp(DATA[:30000]))
    assert segments.describe(memoryview(several), 1472, 1000) == VNET.pack(
        NEEDS_CHECKSUM, UDP_SEGMENTS, 28, 1000, 20, 6
    )


def test_an_unfinished_packet_is_finished_by_our_kernel_and_any_other_is_left_as_it_is() -> None:
    for made, offset, head_bytes in ((tcp(DATA[:100]), 16, 40), (udp(DATA[:100]), 6, 28)):
        found = segments.describe(memoryview(unfinished(made)), 1472)
        assert found == VNET.pack(NEEDS_CHECKSUM, 0, head_bytes, 0, 20, offset)
        assert segments.describe(memoryview(made), 1472) == segments.PLAIN
    assert segments.describe(memoryview(tcp(DATA[:30000])), 1472) == segments.PLAIN
    fragment = unfinished(udp(DATA[:100]))
    fragment[6] = 0x20
    assert segments.describe(memoryview(fragment), 1472) == segments.PLAIN
    shorter = unfinished(udp(DATA[:100]))
    shorter[25] -= 1
    assert segments.describe(memoryview(shorter), 1472) == segments.PLAIN
    without = bytearray(udp(DATA[:100]))
    without[26:28] = b"\0\0"
    assert segments.describe(memoryview(without), 1472) == segments.PLAIN


@given(
    data=st.binary(min_size=20, max_size=200),
    first=st.sampled_from([0x45, 0x46, 0x4F, 0x40]),
    protocol=st.sampled_from([TCP, UDP, 1, 132]),
    data_bytes=st.sampled_from([0, 1, 2, 100, 65535]),
    length=st.integers(0, 200),
)
def test_any_bytes_are_judged(*, data: bytes, first: int, protocol: int, data_bytes: int, length: int) -> None:
    packet = bytearray(data)
    packet[0], packet[9], packet[6], packet[7] = first, protocol, 0x40, 0
    before = len(packet)
    assert len(segments.describe(memoryview(packet), 1472, data_bytes)) == len(segments.PLAIN)
    segments.join(memoryview(packet), 0, len(packet), min(length, len(packet)))
    assert len(packet) == before

"""IPv4 headers and ICMP answers, against the checksum as RFC 1071 defines it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from overlayd.backends.packets import CHECKSUM, TTL, UNREACHABLE, checksum, decrement_ttl, icmp_error, is_ipv4


def packet(
    *,
    ttl: int = 64,
    protocol: int = 17,
    fragment: int = 0,
    source: str = "10.5.1.2",
    target: str = "10.5.9.9",
    identification: int = 1,
    payload: bytes = b"12345678payload",
) -> bytearray:
    """A packet with a right checksum."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        identification,
        fragment,
        ttl,
        protocol,
        0,
        IPv4Address(source).packed,
        IPv4Address(target).packed,
    )
    return bytearray(header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload)


@given(ttl=st.integers(2, 255), identification=st.integers(0, 65535), before=st.binary(max_size=8))
def test_a_hop_leaves_the_checksum_that_would_be_computed_afresh(ttl: int, identification: int, before: bytes) -> None:
    at = len(before)
    buffer = bytearray(before) + packet(ttl=ttl, identification=identification)
    assert decrement_ttl(buffer, at)
    assert buffer[at + TTL] == ttl - 1
    assert buffer[at : at + 20] == packet(ttl=ttl - 1, identification=identification)[:20]


def test_the_last_hop_is_not_spent() -> None:
    for ttl in (0, 1):
        buffer = packet(ttl=ttl)
        assert not decrement_ttl(buffer, 0)
        assert buffer == packet(ttl=ttl)


def test_only_one_whole_packet_is_a_packet() -> None:
    good = packet()
    assert is_ipv4(good, 0, len(good))
    assert not is_ipv4(good, 0, len(good) - 1)
    assert not is_ipv4(good + b"x", 0, len(good) + 1)
    assert not is_ipv4(good, 0, 19)
    assert not is_ipv4(bytearray(b"\x60") + good[1:], 0, len(good))
    short = bytearray(good)
    short[0] = 0x44
    assert not is_ipv4(short, 0, len(short))


@given(st.binary(max_size=64))
def test_any_bytes_are_judged(data: bytes) -> None:
    assert is_ipv4(bytearray(data), 0, len(data)) in (True, False)


def test_net_unreachable_quotes_the_packet_to_its_sender() -> None:
    asked = packet()
    answer = icmp_error(bytes(asked), *UNREACHABLE)
    assert answer is not None
    sender, message = answer
    assert sender == IPv4Address("10.5.1.2")
    assert checksum(message) == 0
    assert message[:2] == b"\x03\x00"
    assert message[8:] == asked[:28]


def test_no_answer_starts_a_loop() -> None:
    unreachable = packet(protocol=1, payload=b"\x03\x00" + bytes(30))
    echo = packet(protocol=1, payload=b"\x08\x00" + bytes(30))
    assert icmp_error(bytes(unreachable), *UNREACHABLE) is None
    assert icmp_error(bytes(echo), *UNREACHABLE) is not None
    assert icmp_error(bytes(packet(protocol=1, payload=b"")), *UNREACHABLE) is None
    assert icmp_error(bytes(packet(fragment=100)), *UNREACHABLE) is None
    assert icmp_error(bytes(packet(source="0.0.0.0")), *UNREACHABLE) is None
    assert icmp_error(bytes(packet(target="224.0.0.1")), *UNREACHABLE) is None


def test_the_checksum_field_is_where_it_is() -> None:
    assert checksum(bytes(packet()[:20])) == 0
    assert packet()[CHECKSUM : CHECKSUM + 2] != b"\0\0"

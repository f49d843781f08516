"""Echoes and the errors about them, byte for byte."""

from __future__ import annotations

import struct

import pytest

from overlayd.backends.packets import checksum
from overlayd.probe import icmp
from overlayd.probe.icmp import Refusal, Reply, Request, echo_request, parse

TOKEN = b"12345678"


@pytest.mark.parametrize(("version", "header"), [(4, 20), (6, 40)])
@pytest.mark.parametrize("packet_bytes", [60, 577, 1500, 9000])
def test_a_request_fills_the_packet_exactly(version: int, header: int, packet_bytes: int) -> None:
    message = echo_request(version, ident=7, sequence=9, token=TOKEN, packet_bytes=packet_bytes)
    assert len(message) + header == packet_bytes
    assert message[0] == {4: 8, 6: 128}[version]
    assert struct.unpack("!HH", message[4:8]) == (7, 9)
    if version == 4:
        assert checksum(message) == 0


def test_a_request_that_is_too_small_is_refused() -> None:
    assert len(echo_request(4, ident=1, sequence=1, token=TOKEN, packet_bytes=icmp.smallest(4))) == 16
    with pytest.raises(ValueError, match="35 bytes"):
        echo_request(4, ident=1, sequence=1, token=TOKEN, packet_bytes=35)


@pytest.mark.parametrize("version", [4, 6])
def test_a_reply_gives_back_what_was_sent(version: int) -> None:
    message = echo_request(version, ident=7, sequence=9, token=TOKEN, packet_bytes=100)
    reply = bytes([icmp.ECHO_REPLY[version]]) + message[1:]
    assert parse(version, reply) == Reply(ident=7, sequence=9, token=TOKEN)
    assert parse(version, message) == Request(note=bytes(100 - icmp.smallest(version)))  # somebody else's, heard


@pytest.mark.parametrize("version", [4, 6])
def test_a_request_carries_a_note_to_who_hears_it(version: int) -> None:
    message = echo_request(version, ident=7, sequence=9, token=TOKEN, packet_bytes=100, note=b"hello")
    assert len(message) == 100 - icmp.IP_BYTES[version]
    heard = parse(version, message)
    assert isinstance(heard, Request)
    assert heard.note.startswith(b"hello")


def error4(kind: int, code: int, rest: int, *, options: bytes = b"") -> bytes:
    request = echo_request(4, ident=7, sequence=9, token=TOKEN, packet_bytes=100)
    inner = bytes([0x45 + len(options) // 4]) + bytes(8) + b"\x01" + bytes(10) + options + request[:8]
    return struct.pack("!BBHI", kind, code, 0, rest) + inner


def test_a_router_names_the_mtu_it_takes() -> None:
    assert parse(4, error4(3, 4, 1380)) == Refusal(ident=7, sequence=9, reason="packet too big", mtu_bytes=1380)
    assert parse(4, error4(3, 4, 0)) == Refusal(ident=7, sequence=9, reason="packet too big", mtu_bytes=None)
    assert parse(4, error4(3, 4, 1380, options=bytes(8))) is not None
    request = echo_request(6, ident=7, sequence=9, token=TOKEN, packet_bytes=100)
    inner = b"\x60" + bytes(5) + b"\x3a" + bytes(33) + request[:8]
    too_big = struct.pack("!BBHI", 2, 0, 0, 1280) + inner
    assert parse(6, too_big) == Refusal(ident=7, sequence=9, reason="packet too big", mtu_bytes=1280)


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [(3, 1, "host unreachable"), (3, 13, "firewall"), (3, 77, "code 77"), (11, 0, "circle")],
)
def test_a_refusal_says_why(kind: int, code: int, words: str) -> None:
    found = parse(4, error4(kind, code, 0))
    assert isinstance(found, Refusal)
    assert words in found.reason


def test_what_is_about_something_else_is_nothing() -> None:
    assert parse(4, b"") is None
    assert parse(4, error4(5, 0, 0)) is None  # a redirect
    udp = bytearray(error4(3, 3, 0))
    udp[8 + 9] = 17
    assert parse(4, bytes(udp)) is None
    for length in range(len(error4(3, 4, 1380))):
        assert parse(4, error4(3, 4, 1380)[:length]) is None


def test_the_ip_header_of_a_raw_socket_is_cut_off() -> None:
    assert icmp.without_ip_header(b"\x46" + bytes(23) + b"rest") == b"rest"
    assert icmp.without_ip_header(b"") == b""

"""Whatever comes from the network or the kernel is judged without an exception, within limits."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlayd.backends.packets import (
    CHECKSUM,
    ICMP,
    PROTOCOL,
    SOURCE,
    TIME_EXCEEDED,
    TTL,
    UNREACHABLE,
    checksum,
    decrement_ttl,
    icmp_error,
    is_ipv4,
)
from overlayd.kernel.expected import Expected, Verdict
from overlayd.kernel.monitor import judge, judge_rules

NEIGHBOURS, LEARNT, PERMANENT = (28, 29), 0x02, 0x80


def packets() -> st.SearchStrategy[bytes]:
    """IPv4 packets, correct and damaged, with options, fragments and any addresses."""

    def made(*, words: int, rest: bytes, payload: bytes, fragment: int, protocol: int, ttl: int) -> bytes:
        options = bytes(4 * (words - 5))
        length = 4 * words + len(payload)
        addresses = (rest + bytes(8))[:8]
        head = struct.pack("!BBHHHBBH", 0x40 | words, 0, length, 7, fragment, ttl, protocol, 0) + addresses + options
        return head[:10] + checksum(head).to_bytes(2) + head[12:] + payload

    right = st.builds(
        made,
        words=st.integers(5, 15),
        rest=st.binary(max_size=8) | st.sampled_from([bytes(8), b"\xff" * 8, b"\x0a\x05\x02\x02\x0a\x05\x01\x02"]),
        payload=st.binary(max_size=40),
        fragment=st.sampled_from([0, 0, 0, 0x2000, 0x4000, 5, 0x3FFF]),
        protocol=st.sampled_from([1, 6, 17, 0, 255]),
        ttl=st.integers(0, 255),
    )
    cut = st.builds(lambda data, at: data[:at], right, st.integers(0, 60))
    flipped = st.builds(
        lambda data, at, value: data[: at % len(data)] + bytes([value]) + data[at % len(data) + 1 :],
        right,
        st.integers(0, 99),
        st.integers(0, 255),
    )
    return right | right | cut | flipped | st.binary(max_size=100)


@given(packets(), st.binary(max_size=5), st.binary(max_size=5))
@settings(max_examples=500)
def test_any_packet_is_judged_by_its_own_bytes_only(packet: bytes, before: bytes, after: bytes) -> None:
    buffer = bytearray(before + packet + after)
    good = is_ipv4(buffer, len(before), len(packet))
    assert good == is_ipv4(bytearray(packet), 0, len(packet))
    if not good:
        return
    assert len(packet) >= 20
    assert packet[0] >> 4 == 4
    header_bytes = (packet[0] & 15) * 4
    assert 20 <= header_bytes <= len(packet) == int.from_bytes(packet[2:4])
    right = checksum(packet[:header_bytes]) == 0
    spent = decrement_ttl(buffer, len(before))
    assert spent == (packet[TTL] > 1)
    now = bytes(buffer[len(before) : len(before) + len(packet)])
    assert buffer == before + now + after
    untouched = [at for at in range(len(packet)) if at not in (TTL, CHECKSUM, CHECKSUM + 1)]
    assert [now[at] for at in untouched] == [packet[at] for at in untouched]
    assert now[TTL] == packet[TTL] - spent
    # A wrong checksum stays wrong, so that the receiver sees what the sender sent.
    assert (checksum(now[:header_bytes]) == 0) == right


@given(packets(), st.sampled_from([UNREACHABLE, TIME_EXCEEDED]))
@settings(max_examples=500)
def test_an_icmp_answer_is_small_right_and_to_the_sender(packet: bytes, kind: tuple[int, int]) -> None:
    if not is_ipv4(bytearray(packet), 0, len(packet)):
        return
    answer = icmp_error(packet, *kind)
    header_bytes = (packet[0] & 15) * 4
    if answer is None:
        return
    sender, message = answer
    assert sender == IPv4Address(packet[SOURCE : SOURCE + 4])
    assert not sender.is_multicast
    assert int.from_bytes(packet[6:8]) & 0x1FFF == 0
    assert packet[PROTOCOL] != ICMP or packet[header_bytes] in (0, 8, 13, 14)
    assert message[:2] == bytes(kind)
    assert checksum(message) == 0
    assert message[8:] == packet[: header_bytes + 8]
    assert len(message) <= 8 + 60 + 8


def message(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A netlink message, with any length in its header."""
    return struct.pack("=IHHII", 16 + len(body) if length is None else length, kind, 0, 0, 0) + body


def neighbour(state: int) -> bytes:
    """The body of a message about a neighbour."""
    return struct.pack("=B3xiHBB", 2, 4, state, 0, 1)


def messages() -> st.SearchStrategy[bytes]:
    """One message, correct or not."""
    kind = st.sampled_from([*NEIGHBOURS, 16, 20, 24, 2, 3, 0, 0xFFFF, 10 << 8, 10 << 8 | 6, 10 << 8 | 12])
    body = st.sampled_from([neighbour(LEARNT), neighbour(PERMANENT), b""]) | st.binary(max_size=30)
    length = st.none() | st.sampled_from([0, 1, 15, 16, 17, 2**32 - 1, 2**31])
    return st.builds(message, kind, body, length)


@given(st.lists(messages(), max_size=6).map(b"".join) | st.binary(max_size=200), st.integers(0, 200))
@example(message(28, b"", 0) * 3, 200)
@example(message(28, b"", 2**32 - 1), 200)
@settings(max_examples=500)
def test_any_netlink_datagram_is_judged(datagram: bytes, cut: int) -> None:
    for part in (datagram, datagram[:cut]):
        assert judge(part, Expected()) in Verdict
        assert judge_rules(part) in Verdict


@given(st.lists(st.sampled_from([LEARNT, 0x04, 0x10]), max_size=20), st.integers(0, 20))
def test_one_relevant_message_among_any_noise_is_noticed(noise: list[int], at: int) -> None:
    quiet = [message(28, neighbour(state)) for state in noise]
    nothing = Expected()
    assert judge(b"".join(quiet), nothing) == Verdict.NOISE
    for kind in (16, 20, 24):
        assert judge(b"".join([*quiet[:at], message(kind, bytes(12)), *quiet[at:]]), nothing) == Verdict.NEWS
    assert judge(b"".join([*quiet[:at], message(29, neighbour(PERMANENT)), *quiet[at:]]), nothing) == Verdict.NEWS

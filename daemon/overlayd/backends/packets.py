"""IPv4 packets (RFC 791) and the ICMP answer to one that cannot be delivered (RFC 792). Pure: bytes in, bytes out."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

HEADER_BYTES = 20
TTL, PROTOCOL, CHECKSUM, SOURCE, DESTINATION = 8, 9, 10, 12, 16
ICMP = 1
# Type and code (RFC 792): net unreachable; time to live exceeded in transit.
UNREACHABLE = (3, 0)
TIME_EXCEEDED = (11, 0)
# ICMP types that ask rather than report: an answer to them starts no loop (RFC 1122, 3.2.2).
_QUERIES = frozenset({0, 8, 13, 14})
# All of a header, as a number, but identification and checksum. What is known of one holds for all that are the same.
SAME_HEADER = int.from_bytes(b"\xff\xff\xff\xff\0\0\xff\xff\xff\xff\0\0" + b"\xff" * 8)


def is_ipv4(buffer: bytearray, at: int, length: int) -> bool:
    """Whether the `length` bytes from `at` on are exactly one IPv4 packet."""
    return (
        length >= HEADER_BYTES
        and buffer[at] >> 4 == 4
        and HEADER_BYTES <= (buffer[at] & 0x0F) * 4 <= length
        and buffer[at + 2] << 8 | buffer[at + 3] == length
    )


def decrement_ttl(buffer: bytearray, at: int) -> bool:
    """Take one off the time to live of the packet at `at`, in place; false, and no change, when none is left to spend.

    Lowering the TTL by one lowers its 16-bit word by 0x0100, so the complement that is the checksum rises by as much
    (RFC 1624).
    """
    ttl = buffer[at + TTL]
    if ttl <= 1:
        return False
    buffer[at + TTL] = ttl - 1
    high = buffer[at + CHECKSUM]
    # 0xFFFF stands for the same as 0 in ones' complement, but is never written by those who compute it afresh.
    if high < 0xFE or (high == 0xFE and buffer[at + CHECKSUM + 1] != 0xFF):
        buffer[at + CHECKSUM] = high + 1
        return True
    total = (high << 8 | buffer[at + CHECKSUM + 1]) + 0x0100
    total = (total & 0xFFFF) + (total >> 16)
    if total == 0xFFFF:
        total = 0
    buffer[at + CHECKSUM], buffer[at + CHECKSUM + 1] = total >> 8, total & 0xFF
    return True


def icmp_error(packet: bytes, kind: int, code: int) -> tuple[IPv4Address, bytes] | None:
    """An ICMP error of this type and code about a packet: whom it goes to, and the message without an IP header.

    None where RFC 1122 (3.2.2) forbids one: about another ICMP error, a fragment but the first, or a packet to or from
    an address that stands for no single host.
    """
    header_bytes = (packet[0] & 0x0F) * 4
    fragment_offset = struct.unpack_from("!H", packet, 6)[0] & 0x1FFF
    sender = IPv4Address(packet[SOURCE : SOURCE + 4])
    target = IPv4Address(packet[DESTINATION : DESTINATION + 4])
    if fragment_offset or not _is_one_host(sender) or not _is_one_host(target):
        return None
    if packet[PROTOCOL] == ICMP and (len(packet) <= header_bytes or packet[header_bytes] not in _QUERIES):
        return None
    # The header and the first eight bytes, by which the sender knows its packet.
    quoted = packet[: header_bytes + 8]
    body = struct.pack("!BBHI", kind, code, 0, 0) + quoted
    return sender, body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of some bytes whose own checksum field is zero; over a whole header it is 0."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _is_one_host(address: IPv4Address) -> bool:
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or int(address) == 0xFFFFFFFF)

"""IPv4 packets (RFC 791) and the ICMP answer to one that cannot be delivered (RFC 792). Pure: bytes in, bytes out."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

HEADER_BYTES = 20
SOURCE, DESTINATION, TTL, PROTOCOL, CHECKSUM = 12, 16, 8, 9, 10
ICMP = 1
ICMP_UNREACHABLE, NET_UNREACHABLE = 3, 0
_ANSWER_TTL = 64


def is_ipv4(packet: bytearray, length: int) -> bool:
    """Whether the first `length` bytes hold a whole IPv4 header and no less than the header says."""
    return (
        length >= HEADER_BYTES
        and packet[0] >> 4 == 4
        and (packet[0] & 0x0F) * 4 >= HEADER_BYTES
        and HEADER_BYTES <= (packet[2] << 8 | packet[3]) <= length
    )


def spend_hop(packet: bytearray) -> bool:
    """Take one off the time to live, in place, and mend the checksum (RFC 1624). False when no hop is left to spend.

    Lowering the TTL by one lowers its 16-bit word by 0x0100, so the complement that is the checksum rises by as much.
    """
    ttl = packet[TTL]
    if ttl <= 1:
        return False
    packet[TTL] = ttl - 1
    checksum = (packet[CHECKSUM] << 8 | packet[CHECKSUM + 1]) + 0x0100
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    packet[CHECKSUM], packet[CHECKSUM + 1] = checksum >> 8, checksum & 0xFF
    return True


def net_unreachable(packet: bytes, source: IPv4Address) -> bytes | None:
    """The ICMP message "net unreachable" about a packet, from `source` to the packet's sender.

    None where RFC 1122 (3.2.2) forbids an answer: about an ICMP error, a fragment but the first, or a broadcast sender.
    """
    header_bytes = (packet[0] & 0x0F) * 4
    fragment_offset = struct.unpack_from("!H", packet, 6)[0] & 0x1FFF
    sender = IPv4Address(packet[SOURCE : SOURCE + 4])
    if fragment_offset or sender.is_multicast or sender.is_unspecified or int(sender) == 0xFFFFFFFF:
        return None
    if packet[PROTOCOL] == ICMP and packet[header_bytes : header_bytes + 1] not in (b"\0", b"\x08"):
        return None
    # The header and the first eight bytes, by which the sender knows its packet.
    quoted = bytes(packet[: header_bytes + 8])
    body = struct.pack("!BBHI", ICMP_UNREACHABLE, NET_UNREACHABLE, 0, 0) + quoted
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, HEADER_BYTES + len(body), 0, 0, _ANSWER_TTL, ICMP, 0, source.packed, sender.packed
    )
    return header[:CHECKSUM] + struct.pack("!H", checksum(header)) + header[CHECKSUM + 2 :] + body


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of some bytes whose own checksum field is zero; over a whole header it is 0."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

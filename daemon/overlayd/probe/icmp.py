"""ICMP echoes and the errors about them (RFC 792, RFC 4443). Pure: bytes in, bytes out."""

from __future__ import annotations

import struct

from overlayd.backends.packets import checksum
from overlayd.lib.quick_dataclass import dataclass

ICMP_BYTES = 8
# Header without options, by IP version.
IP_BYTES = {4: 20, 6: 40}
TOKEN_BYTES = 8
ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
_PROTOCOL = {4: 1, 6: 58}
_UNREACHABLE = {4: 3, 6: 1}
_TIME_EXCEEDED = {4: 11, 6: 3}
_PACKET_TOO_BIG6 = 2
_FRAGMENTATION_NEEDED4 = 4
# The ICMP types that a receiver needs, for the socket's filter.
RECEIVED_TYPES = {
    4: (ECHO_REPLY[4], _UNREACHABLE[4], _TIME_EXCEEDED[4]),
    6: (ECHO_REPLY[6], _UNREACHABLE[6], _TIME_EXCEEDED[6], _PACKET_TOO_BIG6),
}

HOPS_EXCEEDED = "time to live exceeded: packets go in a circle"
_CODES4 = {
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    9: "network prohibited by a firewall",
    10: "host prohibited by a firewall",
    13: "prohibited by a firewall",
}
_CODES6 = {
    0: "no route",
    1: "prohibited by a firewall",
    3: "host unreachable",
    4: "port unreachable",
    6: "route rejected",
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An echo reply. `token` is the one of the request."""

    ident: int
    sequence: int
    token: bytes


@dataclass(frozen=True, kw_only=True)
class Request:
    """An echo request of somebody else. `note` are the bytes after the token."""

    note: bytes


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An ICMP error about an echo. `mtu_bytes` is the largest packet that its sender would have forwarded."""

    ident: int
    sequence: int
    reason: str
    mtu_bytes: int | None = None


def smallest(version: int) -> int:
    """The bytes of the smallest echo that overlayd sends, as a whole IP packet."""
    return IP_BYTES[version] + ICMP_BYTES + TOKEN_BYTES


def echo_request(
    version: int, *, ident: int, sequence: int, token: bytes, packet_bytes: int, note: bytes = b""
) -> bytes:
    """An echo request that makes an IP packet of exactly `packet_bytes`, without the IP header.

    The reply carries the `token` of TOKEN_BYTES; `note` is for the prober that receives the request. The kernel fills
    in the checksum of ICMPv6, as it covers addresses that the kernel chooses (RFC 3542, 3.1).
    """
    padding = packet_bytes - smallest(version) - len(note)
    if padding < 0 or len(token) != TOKEN_BYTES:
        raise ValueError(f"an echo of {packet_bytes} bytes with a token of {len(token)}")
    message = struct.pack("!BBHHH", ECHO_REQUEST[version], 0, 0, ident, sequence) + token + note
    message += bytes(padding)
    if version == 6:
        return message
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def parse(version: int, message: bytes) -> Reply | Refusal | Request | None:
    """The echo request, reply or error in an ICMP message; None for all others, also for one that is cut short."""
    if len(message) < ICMP_BYTES:
        return None
    kind, code = message[0], message[1]
    if kind == ECHO_REQUEST[version]:
        return Request(note=message[ICMP_BYTES + TOKEN_BYTES :])
    if kind == ECHO_REPLY[version]:
        ident, sequence = struct.unpack_from("!HH", message, 4)
        return Reply(ident=ident, sequence=sequence, token=message[ICMP_BYTES : ICMP_BYTES + TOKEN_BYTES])
    why = _reason(version, kind, code, message)
    quoted = _quoted_echo(version, message[ICMP_BYTES:])
    if why is None or quoted is None:
        return None
    return Refusal(ident=quoted[0], sequence=quoted[1], reason=why[0], mtu_bytes=why[1])


def without_ip_header(packet: bytes) -> bytes:
    """The ICMP message in an IPv4 packet. Raw IPv4 sockets deliver the IP header too (raw(7)), those of IPv6 do not."""
    return packet[(packet[0] & 0x0F) * 4 :] if packet else b""


def _reason(version: int, kind: int, code: int, message: bytes) -> tuple[str, int | None] | None:
    if version == 4 and (kind, code) == (_UNREACHABLE[4], _FRAGMENTATION_NEEDED4):
        # RFC 1191: the MTU of the next hop; 0 from a router older than the RFC.
        return "packet too big", struct.unpack_from("!H", message, 6)[0] or None
    if version == 6 and kind == _PACKET_TOO_BIG6:
        return "packet too big", struct.unpack_from("!I", message, 4)[0] or None
    if kind == _UNREACHABLE[version]:
        return (_CODES4 if version == 4 else _CODES6).get(code, f"unreachable (code {code})"), None
    if kind == _TIME_EXCEEDED[version]:
        return HOPS_EXCEEDED, None
    return None


def _quoted_echo(version: int, quoted: bytes) -> tuple[int, int] | None:
    """The identifier and sequence number of the echo request that an ICMP error quotes."""
    if len(quoted) < IP_BYTES[version] or quoted[0] >> 4 != version:
        return None
    header_bytes = (quoted[0] & 0x0F) * 4 if version == 4 else IP_BYTES[6]
    protocol = quoted[9] if version == 4 else quoted[6]
    inner = quoted[header_bytes:]
    if protocol != _PROTOCOL[version] or len(inner) < ICMP_BYTES or inner[0] != ECHO_REQUEST[version]:
        return None
    ident, sequence = struct.unpack_from("!HH", inner, 4)
    return ident, sequence

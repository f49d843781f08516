"""Packets as bytes, forged where a test says so, and whoever sees them arrive. IPv4 and IPv6."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from tests.testbed.netns import namespaces

Address = IPv4Address | IPv6Address
UDP, ICMP6, IP_IN_IP = 17, 58, 4
ETHERNET = {4: 0x0800, 6: 0x86DD}
# What makes a payload one of ours, and its number.
MARK = b"stranger"
# What is not seen so long after it was sent was dropped.
SEEN_S = 0.4
_ALL = 3  # ETH_P_ALL
_HOPS = 64


def token(number: int) -> bytes:
    """A payload that is recognised wherever it arrives."""
    return MARK + struct.pack("!I", number) + b"."


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: Address, destination: Address, protocol: int, payload: bytes, *, hops: int = _HOPS) -> bytes:
    """An IP packet."""
    if source.version == 4:
        header = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, hops, protocol, 0, source.packed, destination.packed
        )
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + source.packed + destination.packed + payload


def _with_sum(source: Address, destination: Address, protocol: int, body: bytes, at: int) -> bytes:
    """The body with its checksum at that place, over the pseudo header too."""
    length = struct.pack("!I", len(body)) if source.version == 6 else struct.pack("!H", len(body))
    kind = struct.pack("!I", protocol) if source.version == 6 else struct.pack("!H", protocol)
    pseudo = source.packed + destination.packed + (length + kind if source.version == 6 else kind + length)
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def udp(source: Address, destination: Address, port: int, payload: bytes, *, source_port: int = 40000) -> bytes:
    """An IP packet with a UDP datagram."""
    body = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload
    return ip(source, destination, UDP, _with_sum(source, destination, UDP, body, 6))


def advertisement(source: IPv6Address) -> bytes:
    """A router advertisement to all nodes, of a default router and a prefix to make addresses in (RFC 4861, 4862)."""
    everybody = IPv6Address("ff02::1")
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + IPv6Address("fd66:6:6:6::").packed
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    return ip(source, everybody, ICMP6, _with_sum(source, everybody, ICMP6, body, 2), hops=255)


def frame(destination: str, source: str, packet: bytes) -> bytes:
    """An Ethernet frame with an IP packet."""
    return _mac(destination) + _mac(source) + struct.pack("!H", ETHERNET[packet[0] >> 4]) + packet


def vxlan(vni: int, inner: bytes) -> bytes:
    """What a VXLAN datagram carries: header and inner frame (RFC 7348)."""
    return struct.pack("!II", 0x08 << 24, vni << 8) + inner


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def mac_of(namespace: str, interface: str) -> str:
    """An interface's own MAC."""
    return namespaces.run(namespace, ["cat", f"/sys/class/net/{interface}/address"]).strip()


def send(namespace: str, interface: str, frames: list[bytes]) -> None:
    """Put frames on a wire, as root in a container can."""

    def deliver() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
            end.bind((interface, 0))
            for one in frames:
                end.send(one)

    namespaces.inside(namespace, deliver)


@dataclass
class Sightings:
    """The numbers of the tokens that arrived."""

    numbers: set[int] = field(default_factory=set)


@contextmanager
def watching(namespace: str, interface: str, seen: Sightings) -> Iterator[None]:
    """Note each token that comes in by an interface, for the length of the block and a moment more."""
    stop = threading.Event()

    def open_end() -> socket.socket:
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        end.bind((interface, _ALL))
        end.settimeout(0.05)
        return end

    end = namespaces.inside(namespace, open_end)

    def read() -> None:
        while True:
            try:
                data, (_name, _ethertype, kind, *_rest) = end.recvfrom(65536)
            except TimeoutError:
                if stop.is_set():
                    return
                continue
            # What a bridge floods is for others; errors quote what they are about.
            if kind == socket.PACKET_HOST and _protocol_of(data) == UDP:
                _note(data, seen)

    with end:
        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
            time.sleep(SEEN_S)
        finally:
            stop.set()
            thread.join()


@contextmanager
def listening(namespace: str, port: int, seen: Sightings) -> Iterator[None]:
    """Note each token that a program of the host itself receives at a UDP port."""
    stop = threading.Event()

    def open_end() -> socket.socket:
        end = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        end.bind(("::", port))
        end.settimeout(0.05)
        return end

    end = namespaces.inside(namespace, open_end)

    def read() -> None:
        while True:
            try:
                _note(end.recv(65536), seen)
            except TimeoutError:
                if stop.is_set():
                    return

    with end:
        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _protocol_of(data: bytes) -> int:
    return data[23] if data[14] >> 4 == 4 else data[20]


def _note(data: bytes, seen: Sightings) -> None:
    at = data.find(MARK)
    if at >= 0 and len(data) >= at + len(MARK) + 4:
        seen.numbers.add(struct.unpack_from("!I", data, at + len(MARK))[0])


def as_nobody(namespace: str, destination: Address, port: int, payload: bytes) -> None:
    """Send a datagram as a process without any right does: by a UDP socket."""

    def deliver() -> None:
        family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            try:
                end.sendto(payload, (str(destination), port))
            except OSError as error:
                if error.errno not in _NO_WAY:
                    raise

    namespaces.inside(namespace, deliver)


# ENETUNREACH, EHOSTUNREACH, EPERM: it did not even leave.
_NO_WAY = (101, 113, 1)

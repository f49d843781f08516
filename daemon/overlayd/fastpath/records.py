"""What the maps of the programs hold, as values and as the bytes of daemon/bpf/fastpath.bpf.c. Pure."""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from overlayd.backends.wire import WireFormat
from overlayd.lib.quick_dataclass import dataclass

# Sizes of keys and values, in bytes.
SETTINGS, PEERS, CONTAINERS, PORTS, FLOWS, ROUTERS = (4, 32), (8, 16), (4, 4), (4, 16), (16, 16), (8, 4)
COUNTER_BYTES = 8
ZERO = struct.pack("=I", 0)
_SETTINGS = struct.Struct("=Q4sIIH6s4x")
_SUBNET = struct.Struct("=I4s")
_PEER = struct.Struct("=4sHB?6s2x")
_PORT = struct.Struct("=4s6s6s")


class Reason(IntEnum):
    """What the programs count: `enum reason`.

    Packets of OUT_LOST, IN_SPOOFED and IN_FAILED are dropped; all after the first two go the kernel's way otherwise.
    """

    SENT = 0
    RECEIVED = 1
    OUT_PROTOCOL = 2
    OUT_SHAPE = 3
    OUT_SOURCE = 4
    OUT_NEW = 5
    OUT_SIZE = 6
    OUT_FAILED = 7
    OUT_LOST = 8
    IN_SHAPE = 9
    IN_STRANGER = 10
    IN_SPOOFED = 11
    IN_UNKNOWN = 12
    IN_FAILED = 13
    OFF = 14


@dataclass(frozen=True, kw_only=True)
class Settings:
    """This host's own end. `underlay` is the interface's index; `valid_until_ns` is on CLOCK_MONOTONIC."""

    valid_until_ns: int
    address: IPv4Address
    underlay: int
    vni: int
    port: int
    mac: str

    def packed(self) -> bytes:
        """As `struct settings`."""
        port = self.port.to_bytes(2, "big")
        return _SETTINGS.pack(
            self.valid_until_ns,
            self.address.packed,
            self.underlay,
            self.vni,
            int.from_bytes(port, "little"),
            _mac(self.mac),
        )


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer: its subnet and address, the format of its packets, the largest of a container's, and its VTEP's MAC.

    `receive_only`: packets to it are left to the kernel.
    """

    subnet: IPv4Network
    address: IPv4Address
    format: WireFormat
    mtu_bytes: int
    mac: str = "00:00:00:00:00:00"
    receive_only: bool = False

    def key(self) -> bytes:
        """As `struct subnet`."""
        return _SUBNET.pack(self.subnet.prefixlen, self.subnet.network_address.packed)

    def packed(self) -> bytes:
        """As `struct peer`."""
        return _PEER.pack(self.address.packed, self.mtu_bytes, self.format, self.receive_only, _mac(self.mac))


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port of the containers' bridge: its index, the container's address and MAC, the bridge's MAC."""

    index: int
    address: IPv4Address
    mac: str
    bridge_mac: str

    def packed(self) -> bytes:
        """As `struct port`."""
        return _PORT.pack(self.address.packed, _mac(self.mac), _mac(self.bridge_mac))


def total(value: bytes) -> int:
    """The sum of a counter of all processors."""
    return sum(struct.unpack(f"={len(value) // COUNTER_BYTES}Q", value))


def number(value: int) -> bytes:
    """A key or value of four bytes."""
    return struct.pack("=I", value)


def router(mac: str) -> bytes:
    """A key of `routers`."""
    return _mac(mac) + bytes(2)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))

"""Whether another host on the segment has this host's address: ARP probes (RFC 5227, 2.1.1)."""

from __future__ import annotations

import select
import socket
import struct
import time
from ipaddress import IPv4Address

ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERNET = 0x0806, 0x0800, 1
REQUEST, REPLY = 1, 2
BROADCAST = b"\xff" * 6
# RFC 5227 spreads its three probes over seconds, for hosts that all boot at once. This host has long booted.
PROBES, INTERVAL_S, WAIT_S = 3, 0.1, 0.4
_ARP = struct.Struct("!HHBBH6s4s6s4s")


def others_with(address: IPv4Address, ifname: str) -> tuple[str, ...] | None:
    """The MACs of other hosts that answer for `address`; None where no probe can be sent: not root, no Ethernet.

    Three broadcasts with the sender address 0.0.0.0, which change no host's ARP cache; takes half a second.
    """
    found: set[str] = set()
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_ARP)) as wire:
            wire.bind((ifname, ETHERTYPE_ARP))
            mac, kind = wire.getsockname()[4], wire.getsockname()[3]
            if kind != ETHERNET or len(mac) != 6:
                return None
            wire.setblocking(False)
            for number in range(PROBES):
                wire.send(probe(address, mac))
                _listen(wire, address, mac, found, INTERVAL_S if number < PROBES - 1 else WAIT_S)
    except OSError:
        return None
    return tuple(sorted(found))


def probe(address: IPv4Address, mac: bytes) -> bytes:
    """An ARP probe as an Ethernet frame. Pure."""
    body = _ARP.pack(ETHERNET, ETHERTYPE_IPV4, 6, 4, REQUEST, mac, bytes(4), bytes(6), address.packed)
    return BROADCAST + mac + struct.pack("!H", ETHERTYPE_ARP) + body


def claimant(frame: bytes, address: IPv4Address, mac: bytes) -> str | None:
    """The MAC of another host that claims the address by this frame; None where the frame does not. Pure."""
    if len(frame) < 14 + _ARP.size:
        return None
    kind, protocol, _hlen, _plen, operation, sender, sender_ip, _target, target_ip = _ARP.unpack_from(frame, 14)
    if (kind, protocol) != (ETHERNET, ETHERTYPE_IPV4) or sender == mac or operation not in (REQUEST, REPLY):
        return None
    # RFC 5227: an ARP packet with that sender, or another host's probe for the same address at the same moment.
    probes_too = operation == REQUEST and sender_ip == bytes(4) and target_ip == address.packed
    return sender.hex(":") if sender_ip == address.packed or probes_too else None


def _listen(wire: socket.socket, address: IPv4Address, mac: bytes, found: set[str], for_s: float) -> None:
    poll, deadline = select.poll(), time.monotonic() + for_s
    poll.register(wire, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            other = claimant(wire.recv(2048), address, mac)
            if other is not None:
                found.add(other)

"""A forwarder of backend udp in this process, between two namespaces: its host and a neighbour with plain sockets."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from overlayd.backends.packets import checksum
from overlayd.backends.peers import PeerTable
from overlayd.backends.tun import TunForwarder
from overlayd.leases.lease import FamilyLease, Lease
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside

PORT, DEVICE, MTU = 8285, "overlay0", 1472
HERE, PEER, OTHER_PEER, STRANGER = (f"198.18.1.{number}" for number in (1, 2, 3, 9))
SUBNETS = {PEER: IPv4Network("10.5.2.0/24"), OTHER_PEER: IPv4Network("10.5.3.0/25")}
ETH_P_IP = 0x0800


@dataclass
class Scene:
    """A host with a forwarder, a neighbour with three addresses, and a capture of what comes out of the device."""

    near: str
    far: str
    forwarder: TunForwarder
    sniffer: socket.socket
    senders: dict[str, socket.socket]
    seen: Counter[bytes] = field(default_factory=Counter)

    def look(self) -> Counter[bytes]:
        """All packets that the device gave to the kernel so far."""
        while True:
            try:
                packet, origin = self.sniffer.recvfrom(65536)
            except BlockingIOError:
                return self.seen
            if origin[2] == socket.PACKET_HOST:
                self.seen[packet] += 1


@contextmanager
def made() -> Iterator[Scene]:
    """Both namespaces, connected by a veth pair, for the length of the block."""
    near, far = namespaces.unique("fuzznear"), namespaces.unique("fuzzfar")
    namespaces.make(near)
    namespaces.make(far)
    closing: list[Callable[[], None]] = []
    try:
        namespaces.ip(
            near,
            f"link add eth0 type veth peer name eth0 netns {far}",
            f"address add {HERE}/24 dev eth0",
            "link set eth0 up",
            f"tuntap add {DEVICE} mode tun",
            f"address add 10.5.1.0/32 dev {DEVICE}",
            f"link set {DEVICE} up mtu {MTU}",
            f"route add 10.5.0.0/16 dev {DEVICE}",
        )
        namespaces.ip(far, *(f"address add {one}/24 dev eth0" for one in (PEER, OTHER_PEER, STRANGER)))
        namespaces.ip(far, "link set eth0 up")
        leases = [
            Lease(v4=FamilyLease(subnet=subnet, public_ip=IPv4Address(address))) for address, subnet in SUBNETS.items()
        ]
        forwarder = inside(
            near,
            lambda: TunForwarder(device=DEVICE, local=IPv4Address(HERE), port=PORT, mtu_bytes=MTU),
        )
        forwarder.table = PeerTable(leases, PORT)
        closing.append(forwarder.close)
        sniffer = inside(near, sniff)
        closing.append(sniffer.close)
        senders = {one: inside(far, lambda one=one: sender(one)) for one in (PEER, OTHER_PEER, STRANGER)}  # type: ignore[misc]
        closing += [each.close for each in senders.values()]
        stop = threading.Event()
        thread = threading.Thread(target=inside, args=(near, lambda: forwarder.run(stop)))
        thread.start()
        closing.append(thread.join)
        closing.append(stop.set)
        yield Scene(near=near, far=far, forwarder=forwarder, sniffer=sniffer, senders=senders)
    finally:
        for close in reversed(closing):
            close()
        namespaces.remove(near)
        namespaces.remove(far)


def sniff() -> socket.socket:
    """A socket that sees what the device gives to the kernel: packets without a link header (packet(7))."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    end.bind((DEVICE, ETH_P_IP))
    end.setblocking(False)
    return end


def sender(address: str) -> socket.socket:
    """A socket at one of the neighbour's addresses, such as a peer's forwarder has."""
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((address, PORT))
    return end


def packet(source: int, target: int, payload: bytes, *, ttl: int = 64) -> bytes:
    """A bare IPv4 packet."""
    length = (20 + len(payload)).to_bytes(2)
    addresses = source.to_bytes(4) + target.to_bytes(4)
    head = b"\x45\0" + length + b"\0\0\0\0" + bytes([ttl, 253]) + b"\0\0" + addresses
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + payload

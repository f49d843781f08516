"""A real forwarder gets thousands of datagrams of every kind, and only allowed packets come out of its device."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlayd.backends.packets import checksum
from overlayd.backends.peers import PeerTable
from overlayd.backends.tun import TunForwarder
from overlayd.leases.lease import FamilyLease, Lease
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually

PORT, DEVICE, MTU = 8285, "overlay0", 1472
HERE, PEER, OTHER_PEER, STRANGER = (f"198.18.1.{number}" for number in (1, 2, 3, 9))
SUBNETS = {PEER: IPv4Network("10.5.2.0/24"), OTHER_PEER: IPv4Network("10.5.3.0/25")}
DATAGRAMS, BATCH = 4000, 50
ETH_P_IP = 0x0800
SOURCES = ("10.5.2.7", "10.5.3.7", "10.5.3.200", "10.5.1.7", "198.18.1.2", "0.0.0.0")


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


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Two namespaces, connected by a veth pair."""
    near, far = namespaces.unique("fuzznear"), namespaces.unique("fuzzfar")
    with made(near, far) as found:
        yield found


@contextmanager
def made(near: str, far: str) -> Iterator[Scene]:
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
        forwarder = inside(near, lambda: TunForwarder(device=DEVICE, local=IPv4Address(HERE), port=PORT, mtu_bytes=MTU))
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


def any_datagram(rng: random.Random) -> bytes:
    """A datagram that may arrive: correct, almost correct, or random."""
    source = int(IPv4Address(rng.choice([*SOURCES, "10.5.2.7", "10.5.2.8", "10.5.3.7"])))
    target = rng.choice([int(IPv4Address("10.5.1.7")), int(IPv4Address("224.0.0.1")), rng.getrandbits(32)])
    whole = packet(source, target, rng.randbytes(rng.randrange(200)), ttl=rng.choice([64, 64, 64, 255, 2, 1, 0]))
    match rng.randrange(8):
        case 0:
            return rng.randbytes(rng.randrange(100))
        case 1:
            return whole[: rng.randrange(len(whole))]
        case 2:
            return whole + rng.randbytes(rng.randrange(1, 4))
        case 3:
            at = rng.randrange(len(whole))
            return whole[:at] + rng.randbytes(1) + whole[at + 1 :]
        case 4:
            return b"\x60" + whole[1:]
        case _:
            return whole


def let_in(sender: str, datagram: bytes) -> bytes | None:
    """The packet that may come out for a datagram according to the rules; None if nothing may."""
    if sender not in SUBNETS or len(datagram) < 20 or datagram[0] >> 4 != 4:
        return None
    header = (datagram[0] & 15) * 4
    if not 20 <= header <= len(datagram) or int.from_bytes(datagram[2:4]) != len(datagram):
        return None
    if IPv4Address(datagram[12:16]) not in SUBNETS[sender] or datagram[8] <= 1:
        return None
    out = bytearray(datagram)
    out[8] -= 1
    # RFC 1624: the sum over the header does not change; it is 0 in a correct header.
    total = int.from_bytes(datagram[10:12]) + 0x0100
    out[10:12] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2)
    return bytes(out)


def normal(one: bytes) -> bytes:
    """The packet with the two representations of a zero checksum made equal."""
    return one[:10] + (b"\0\0" if one[10:12] == b"\xff\xff" else one[10:12]) + one[12:]


def test_only_what_a_lease_allows_comes_out_and_the_forwarder_lives_on(scene: Scene) -> None:
    rng = random.Random(8285)
    expected: Counter[bytes] = Counter()
    sent = 0
    for number in range(DATAGRAMS // BATCH):
        for _ in range(BATCH):
            origin = rng.choice([PEER, PEER, OTHER_PEER, STRANGER])
            datagram = any_datagram(rng)
            scene.senders[origin].sendto(datagram, (HERE, PORT))
            sent += 1
            out = let_in(origin, datagram)
            if out is not None:
                expected[normal(out)] += 1
        # One good datagram after each batch: once it is out, all earlier ones were judged, and no buffer overflows.
        last = packet(int(IPv4Address("10.5.2.9")), int(IPv4Address("10.5.1.9")), f"batch {number}".encode())
        scene.senders[PEER].sendto(last, (HERE, PORT))
        out = let_in(PEER, last)
        assert out is not None
        expected[normal(out)] += 1
        eventually(f"the end of batch {number}", lambda out=out: normal(out) in map(normal, scene.look()))  # type: ignore[misc]
    found = Counter({normal(one): count for one, count in scene.look().items()})
    assert found - expected == Counter(), "something came out that may not"
    assert expected - found == Counter(), "something was lost that may come out"
    dropped = scene.forwarder.dropped
    assert dropped["refused"] == 0
    assert all(dropped[reason] for reason in ("no lease", "foreign source", "malformed", "no hop left"))
    assert sum(expected.values()) > DATAGRAMS // 10


def test_any_packet_from_the_host_is_sent_answered_or_dropped(scene: Scene) -> None:
    """The other direction: the kernel gives the device what a container may send."""
    rng = random.Random(5828)
    peer = scene.senders[PEER]
    peer.setblocking(False)

    def raw() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def arrived() -> list[bytes]:
        found = []
        try:
            while True:
                found.append(peer.recv(65536))
        except BlockingIOError:
            return found

    with inside(scene.near, raw) as out:
        for number in range(40):
            for _ in range(25):
                target = f"10.5.{rng.choice([2, 3, 4, 200])}.{rng.randrange(256)}"
                made = packet(
                    int(IPv4Address("10.5.1.7")),
                    int(IPv4Address(target)),
                    rng.randbytes(rng.randrange(1400)),
                    ttl=rng.choice([64, 1, 2, 255]),
                )
                out.sendto(made, (target, 0))
            last = packet(int(IPv4Address("10.5.1.7")), int(IPv4Address("10.5.2.7")), f"batch {number}".encode())
            out.sendto(last, ("10.5.2.7", 0))
            came: list[bytes] = []

            def all_came(came: list[bytes] = came, last: bytes = last) -> bool:
                came.extend(arrived())
                return any(one[20:] == last[20:] for one in came)

            eventually(f"the end of batch {number}", all_came)
            for one in came:
                assert IPv4Address(one[16:20]) in SUBNETS[PEER]
                assert one[8] in (63, 1, 254)
                assert checksum(one[:20]) == 0
                assert int.from_bytes(one[2:4]) == len(one)
    assert scene.forwarder.dropped["no route"] > 0
    assert scene.forwarder.dropped["no hop left"] > 0

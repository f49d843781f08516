"""A real forwarder gets thousands of datagrams of every kind, and only allowed packets come out of its device."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from overlayd.backends.packets import checksum
from tests.testbed.netns.forwarder import HERE, OTHER_PEER, PEER, PORT, STRANGER, SUBNETS, Scene, made, packet
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually

DATAGRAMS, BATCH = 4000, 50
SOURCES = ("10.5.2.7", "10.5.3.7", "10.5.3.200", "10.5.1.7", "198.18.1.2", "0.0.0.0")


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A forwarder and its neighbour."""
    with made() as found:
        yield found


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

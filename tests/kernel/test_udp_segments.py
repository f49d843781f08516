"""Large packets of the udp backend against a real kernel: in segments on the wire, joined for the device, none lost."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from overlayd.backends.packets import checksum
from overlayd.backends.segments import ACK, NEEDS_CHECKSUM, PSH, TCP, TCP_SEGMENTS, UDP, UDP_SEGMENTS, VNET
from tests.testbed.netns import namespaces
from tests.testbed.netns.forwarder import DEVICE, ETH_P_IP, HERE, MTU, PEER, PORT, Scene, made, packet
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually

# linux/if_packet.h, linux/udp.h
SOL_PACKET, PACKET_VNET_HDR, UDP_SEGMENT = 263, 15, 103
OURS, THEIRS = IPv4Address("10.5.1.7"), IPv4Address("10.5.2.7")
DATA = random.Random(92).randbytes(64000)
LARGEST_DATA = MTU - 40


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A forwarder and its neighbour."""
    with made() as found:
        yield found


def with_sum(source: IPv4Address, target: IPv4Address, protocol: int, segment: bytes, *, finished: bool) -> bytes:
    """An IPv4 packet with its checksum, or with what the kernel leaves to a device in its place."""
    at = 16 if protocol == TCP else 6
    pseudo = source.packed + target.packed + struct.pack("!BBH", 0, protocol, len(segment))
    check = checksum(pseudo + segment) if finished else ~checksum(pseudo) & 0xFFFF
    segment = segment[:at] + check.to_bytes(2) + segment[at + 2 :]
    made = bytearray(packet(int(source), int(target), segment))
    made[6], made[9], made[10:12] = 0x40, protocol, b"\0\0"
    made[10:12] = checksum(bytes(made[:20])).to_bytes(2)
    return bytes(made)


def tcp(
    source: IPv4Address, target: IPv4Address, data: bytes, *, sequence: int = 0, flags: int = ACK, finished: bool = True
) -> bytes:
    header = struct.pack("!HHIIBBHHH", 5001, 40000, sequence, 99, 5 << 4, flags, 501, 0, 0)
    return with_sum(source, target, TCP, header + data, finished=finished)


def udp(source: IPv4Address, target: IPv4Address, data: bytes, *, finished: bool = True) -> bytes:
    header = struct.pack("!HHHH", 5001, 40000, 8 + len(data), 0)
    return with_sum(source, target, UDP, header + data, finished=finished)


@contextmanager
def stack(scene: Scene) -> Iterator[socket.socket]:
    """A socket that gives the device packets with virtio-net headers, as the host's stack does, and sees what comes."""

    def make() -> socket.socket:
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        end.bind((DEVICE, ETH_P_IP))
        end.setblocking(False)
        return end

    with inside(scene.near, make) as end:
        yield end


def came_in(end: socket.socket, count: int) -> list[tuple[tuple[int, ...], bytes]]:
    """Virtio-net headers and packets that the device gave to the kernel, at least so many."""
    found: list[tuple[tuple[int, ...], bytes]] = []

    def all_came() -> bool:
        try:
            while True:
                data, origin = end.recvfrom(70000)
                if origin[2] == socket.PACKET_HOST:
                    found.append((VNET.unpack(data[: VNET.size]), data[VNET.size :]))
        except BlockingIOError:
            return len(found) >= count

    eventually(f"{count} packets came in", all_came)
    return found


def arrived(scene: Scene, last: bytes, again: Callable[[], object] = bool) -> list[bytes]:
    """What the neighbour's plain socket received, up to a packet with this payload; `again` sends it again."""
    peer = scene.senders[PEER]
    peer.setblocking(False)
    found: list[bytes] = []

    def all_came() -> bool:
        try:
            while True:
                found.append(peer.recv(70000))
        except BlockingIOError:
            if found and found[-1].endswith(last):
                return True
            again()
            return False

    eventually("the last packet arrives", all_came)
    return found[:-1]


def judged_by_tcpdump(packets: list[bytes], folder: Path) -> str:
    """What an independent decoder says of packets: pcap with LINKTYPE_RAW."""
    path = folder / "seen.pcap"
    with path.open("wb") as out:
        out.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 70000, 101))
        for one in packets:
            out.write(struct.pack("=IIII", 0, 0, len(one), len(one)) + one)
    done = subprocess.run(["tcpdump", "-nvvr", str(path)], capture_output=True, text=True, check=True)
    return done.stdout


def test_each_segment_is_a_datagram_of_its_own_with_right_checksums(scene: Scene, tmp_path: Path) -> None:
    with stack(scene) as end:
        large = tcp(OURS, THEIRS, DATA, flags=ACK | PSH, finished=False)
        end.send(VNET.pack(NEEDS_CHECKSUM, TCP_SEGMENTS, 40, LARGEST_DATA, 20, 16) + large)
        several = udp(OURS, THEIRS, DATA[:30001], finished=False)
        end.send(VNET.pack(NEEDS_CHECKSUM, UDP_SEGMENTS, 28, 1001, 20, 6) + several)
        end.send(VNET.pack(NEEDS_CHECKSUM, 0, 0, 0, 20, 6) + udp(OURS, THEIRS, DATA[:99], finished=False))
        end.send(VNET.pack(0, 0, 0, 0, 0, 0) + packet(int(OURS), int(THEIRS), b"last"))
    found = arrived(scene, b"last")
    segments = [one for one in found if one[9] == TCP]
    assert b"".join(one[40:] for one in segments) == DATA
    assert {len(one) for one in segments[:-1]} == {MTU}
    assert [one[33] for one in segments] == [ACK] * (len(segments) - 1) + [ACK | PSH]
    datagrams = [one for one in found if one[9] == UDP]
    assert b"".join(one[28:] for one in datagrams) == DATA[:30001] + DATA[:99]
    assert len(datagrams) == 31
    said = judged_by_tcpdump(found, tmp_path)
    assert said.count("(correct)") == len(segments)
    assert said.count("[udp sum ok]") == len(datagrams)
    assert "bad" not in said
    assert "incorrect" not in said


def batch(count: int) -> list[bytes]:
    """Consecutive segments from the neighbour's container; the last one is shorter, with PSH."""
    return [
        tcp(
            THEIRS,
            OURS,
            DATA[number * LARGEST_DATA :][: LARGEST_DATA if number < count - 1 else 33],
            sequence=number * LARGEST_DATA,
            flags=ACK if number < count - 1 else ACK | PSH,
        )
        for number in range(count)
    ]


def send_together(scene: Scene, packets: list[bytes]) -> None:
    """Send datagrams in one system call; the receiver gets them in one, too."""
    size = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(packets[0])))]
    scene.senders[PEER].sendmsg([b"".join(packets)], size, 0, (HERE, PORT))


def test_segments_of_one_flow_that_arrive_together_are_one_packet_for_the_kernel(scene: Scene) -> None:
    with stack(scene) as end:
        send_together(scene, batch(30))
        ((vnet, whole), *more) = came_in(end, 1)
    assert not more
    assert vnet[:2] == (NEEDS_CHECKSUM, TCP_SEGMENTS)
    assert vnet[3] == LARGEST_DATA
    assert whole[40:] == DATA[: 29 * LARGEST_DATA + 33]
    assert whole[8] == 63
    assert whole[33] == ACK | PSH


@pytest.mark.parametrize("at", [40, 700, MTU - 1, 36, 10])
def test_a_harmed_segment_stays_harmed_and_the_others_come_in(scene: Scene, at: int) -> None:
    packets = batch(10)
    harmed = bytearray(packets[4])
    harmed[at] ^= 0x10
    packets[4] = bytes(harmed)
    with stack(scene) as end:
        send_together(scene, packets)
        found = came_in(end, 10)
    assert [vnet[1] for vnet, _whole in found] == [0] * 10
    assert [whole[20:] for _vnet, whole in found] == [one[20:] for one in packets]


def test_what_a_neighbours_kernel_hands_over_uncut_and_unfinished_is_taken(scene: Scene) -> None:
    peer = scene.senders[PEER]
    large = tcp(THEIRS, OURS, DATA[:40000], finished=False)
    small = udp(THEIRS, OURS, DATA[:100], finished=False)
    finished = udp(THEIRS, OURS, DATA[:100])
    with stack(scene) as end:
        for one in (large, small, finished):
            peer.sendto(one, (HERE, PORT))
        found = came_in(end, 3)
    assert [vnet[:2] for vnet, _whole in found] == [(NEEDS_CHECKSUM, TCP_SEGMENTS), (NEEDS_CHECKSUM, 0), (0, 0)]
    assert found[0][0][3] == LARGEST_DATA
    assert [whole[20:] for _vnet, whole in found] == [one[20:] for one in (large, small, finished)]


def test_nothing_else_gets_in_that_way(scene: Scene) -> None:
    peer = scene.senders[PEER]
    large = tcp(IPv4Address("10.5.3.7"), OURS, DATA[:40000], finished=False)
    last = packet(int(THEIRS), int(OURS), b"last")
    with stack(scene) as end:
        peer.sendto(large, (HERE, PORT))
        peer.sendto(tcp(THEIRS, OURS, DATA[:40000], finished=False)[:-1], (HERE, PORT))
        peer.sendto(last, (HERE, PORT))
        found = came_in(end, 1)
    assert [whole[20:] for _vnet, whole in found] == [b"last"]


def test_random_packets_with_random_headers_do_no_harm(scene: Scene) -> None:
    """The kernel refuses most headers; what it lets through, the forwarder sends or drops."""
    rng = random.Random(16)
    taken = 0
    with stack(scene) as end:
        for number in range(60):
            for _ in range(20):
                data = DATA[: rng.choice([0, 1, 2, 37, 1400, 9001, 40000])]
                made = bytearray(rng.choice([tcp, udp])(OURS, THEIRS, data, finished=rng.random() < 0.5))
                if rng.random() < 0.3:
                    made[rng.randrange(min(40, len(made)))] = rng.randrange(256)
                if rng.random() < 0.2:
                    made = made[: rng.randrange(1, len(made) + 1)]
                sizes = [0, 1, 2, 1000, LARGEST_DATA, 40000, 65535]
                vnet = VNET.pack(
                    rng.choice([0, 1, 1, 1, 2, 255]),
                    rng.choice([0, 1, 1, 5, 5, 3, 4, 0x81, rng.randrange(256)]),
                    rng.choice([0, 28, 40, 65535]),
                    rng.choice(sizes),
                    rng.choice([20, 20, 0, 60, 65535]),
                    rng.choice([16, 6, 0, 65535]),
                )
                with contextlib.suppress(OSError):
                    taken += bool(end.send(vnet + made))
            last = f"batch {number}".encode()
            # The neighbour's socket may be full of small segments when the first of these comes.
            finish = partial(end.send, VNET.pack(0, 0, 0, 0, 0, 0) + packet(int(OURS), int(THEIRS), last))
            for one in arrived(scene, last, finish):
                assert int.from_bytes(one[2:4]) == len(one)
                assert one[0] >> 4 == 4
    assert taken > 100


def test_while_the_socket_is_full_packets_wait_and_the_other_direction_goes_on(scene: Scene) -> None:
    """A slow underlay: more is sent than the socket holds, and no packet is lost."""
    slow = "qdisc add dev eth0 root tbf rate 8mbit burst 10kb limit 4mb"
    namespaces.run(scene.near, ["tc", *slow.split()])
    before = scene.forwarder.dropped["refused"]
    data = DATA[:1400]
    with stack(scene) as end:
        for number in range(450):
            end.send(VNET.pack(0, 0, 0, 0, 0, 0) + packet(int(OURS), int(THEIRS), number.to_bytes(2) + data))
        began = time.monotonic()
        scene.senders[PEER].sendto(packet(int(THEIRS), int(OURS), b"the other way"), (HERE, PORT))
        ((_vnet, whole),) = came_in(end, 1)
        waited = time.monotonic() - began
        assert whole[20:] == b"the other way"
        end.send(VNET.pack(0, 0, 0, 0, 0, 0) + packet(int(OURS), int(THEIRS), b"last"))
        found = arrived(scene, b"last")
    # 253: the kernel answers some with ICMP.
    assert [int.from_bytes(one[20:22]) for one in found if one[9] == 253] == list(range(450))
    assert scene.forwarder.dropped["refused"] == before
    assert waited < 0.4

"""The bytes that the BPF programs read: sizes and places of fields as the C compiler has them."""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from overlayd.backends.wire import WireFormat
from overlayd.fastpath import records
from overlayd.fastpath.records import Peer, Port, Reason, Settings

SOURCE = (Path(__file__).parents[3] / "daemon/bpf/fastpath.bpf.c").read_text()


def test_reasons_and_formats_have_the_numbers_of_the_program() -> None:
    for name, members in (("reason", [one.name for one in Reason]), ("format", ["ROUTES", "UDP", "VXLAN"])):
        body = re.sub(r"/\*.*?\*/", "", SOURCE.partition(f"enum {name} {{")[2].partition("}")[0])
        found = [word for word in re.findall(r"\w+", body) if word != "REASONS"]
        assert found == members
    assert [one.value for one in (WireFormat.DIRECT, WireFormat.UDP, WireFormat.VXLAN)] == [0, 1, 2]


def test_settings_of_a_host() -> None:
    packed = Settings(
        valid_until_ns=5, address=IPv4Address("198.18.1.2"), underlay=7, vni=1, port=8472, mac="02:00:00:00:00:01"
    ).packed()
    assert len(packed) == records.SETTINGS[1]
    assert packed[:8] == struct.pack("=Q", 5)
    assert packed[8:12] == bytes([198, 18, 1, 2])
    assert struct.unpack_from("=II", packed, 12) == (7, 1)
    assert packed[20:22] == (8472).to_bytes(2, "big")
    assert packed[22:28] == bytes([2, 0, 0, 0, 0, 1])


def test_a_peer_is_found_by_its_subnet() -> None:
    peer = Peer(
        subnet=IPv4Network("10.5.7.0/24"),
        address=IPv4Address("198.18.1.3"),
        format=WireFormat.VXLAN,
        mtu_bytes=1450,
        mac="02:00:00:00:00:03",
    )
    assert peer.key() == struct.pack("=I", 24) + bytes([10, 5, 7, 0])
    assert (len(peer.key()), len(peer.packed())) == records.PEERS
    assert peer.packed()[:7] == bytes([198, 18, 1, 3]) + struct.pack("=HB", 1450, 2)
    assert peer.packed()[8:14] == bytes([2, 0, 0, 0, 0, 3])


def test_a_port_a_router_and_counters() -> None:
    port = Port(index=9, address=IPv4Address("10.5.7.2"), mac="02:00:00:00:00:04", bridge_mac="02:00:00:00:00:05")
    assert len(port.packed()) == records.PORTS[1]
    assert port.packed() == bytes([10, 5, 7, 2, 2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 5])
    assert records.router("02:00:00:00:00:06") == bytes([2, 0, 0, 0, 0, 6, 0, 0])
    assert records.total(struct.pack("=3Q", 1, 2, 2**40)) == 3 + 2**40

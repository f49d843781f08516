"""Where packets must not take the fast path: past what an administrator made, forged ones, and after its end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.kernel.test_fast_path import a, b
from tests.testbed.netns import namespaces, wire
from tests.testbed.netns.fast_path import (
    DATA,
    all_arrives,
    by_the_bridge,
    counted,
    fast,
    fast_laboratory,
    programs,
    slow,
)
from tests.testbed.netns.foreign_bpf import PASS, XDP, attach_xdp, made
from tests.testbed.netns.lab import Host, Lab
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

__all__ = ["a", "b"]

LOOK_S = 2.5


@pytest.fixture(scope="module", params=["vxlan", "vxlan clsact", pytest.param("udp", marks=pytest.mark.slow)])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a and b, between which packets take the fast path."""
    with fast_laboratory(tmp_path_factory.mktemp("fast"), request.param) as lab:
        yield lab


def test_a_container_cannot_send_by_it_with_an_address_that_is_not_its_own(a: Host, b: Host) -> None:
    seen = wire.Sightings()
    before = counted(a)
    forged = wire.udp(a.subnet[77], b.container_address, 9, wire.token(1))
    gateway = wire.mac_of(a.namespace, "docker0")
    own = wire.mac_of(a.container, "eth0")
    with wire.watching(b.container, "eth0", seen):
        wire.send(a.container, "eth0", [wire.frame(gateway, own, forged)])
    eventually("it is counted", lambda: counted(a)["out_source"] > before["out_source"])


def test_a_container_with_somebody_else_s_address_gets_nothing_that_is_for_others(a: Host, b: Host) -> None:
    """The bridge's, where published ports are, and another container's: with CAP_NET_ADMIN it takes any address."""
    thief = namespaces.unique("thief")
    namespaces.make(thief)
    try:
        b.run(
            "sh",
            "-c",
            f"ip link add vetht type veth peer name eth0 netns {thief} && ip link set vetht master docker0 up",
        )
        for number, address in enumerate((b.subnet[1], b.container_address)):
            namespaces.ip(thief, "link set eth0 up", "address flush dev eth0", f"address add {address}/32 dev eth0")
            time.sleep(2 * LOOK_S)
            seen = wire.Sightings()
            with wire.watching(thief, "eth0", seen):
                for _ in range(3):
                    wire.as_nobody(a.container, address, 9, wire.token(number))
            assert seen.numbers == set()
    finally:
        b.run("ip", "link", "delete", "vetht")
        namespaces.remove(thief)


def test_a_tagged_frame_goes_to_no_vlan_of_the_underlay(lab: Lab, a: Host, b: Host) -> None:
    """Neither from a container, which any with CAP_NET_RAW can send, nor to one."""
    gateway, own = wire.mac_of(a.namespace, "docker0"), wire.mac_of(a.container, "eth0")
    plain = wire.frame(gateway, own, wire.udp(a.container_address, b.container_address, 9, wire.token(5)))
    seen = wire.Sightings()
    with wire.watching(b.container, "eth0", seen):
        wire.send(a.container, "eth0", [plain])
    assert seen.numbers == {5}
    tagged = wire.frame(gateway, own, wire.udp(a.container_address, b.container_address, 9, wire.token(6)))
    tagged = tagged[:12] + b"\x81\x00\x00\x64" + tagged[12:]
    before = counted(a)["sent"]
    with wire.watching(b.container, "eth0", seen):
        for _ in range(50):
            wire.send(a.container, "eth0", [tagged])
    time.sleep(2 * LOOK_S)
    assert seen.numbers == {5}
    assert counted(a)["sent"] - before < 50


def _go_by_the_bridge(source: Host, target: Host) -> bool:
    """Whether all that a container sends leaves by its bridge, and not past it."""
    before = by_the_bridge(source)
    all_arrives(source, target)
    return by_the_bridge(source) - before > len(DATA)


def test_a_limited_container_is_left_to_the_kernel(a: Host, b: Host) -> None:
    a.run("tc", "qdisc", "add", "dev", "vethc", "root", "tbf", "rate", "800mbit", "burst", "256k", "latency", "50ms")
    try:
        eventually("its packets go by the bridge", partial(_go_by_the_bridge, a, b))
    finally:
        a.run("tc", "qdisc", "delete", "dev", "vethc", "root")


def test_a_container_whose_port_the_bridge_has_closed_is_not_reached_past_it(a: Host, b: Host) -> None:
    """State `disabled`: from each other one a bridge without STP goes back to `forwarding` by itself."""
    seen = wire.Sightings()
    b.run("bridge", "link", "set", "dev", "vethc", "state", "0")
    try:
        time.sleep(2 * LOOK_S)
        with wire.watching(b.container, "eth0", seen):
            for _ in range(3):
                wire.as_nobody(a.container, b.container_address, 9, wire.token(7))
        assert seen.numbers == set()
    finally:
        b.run("bridge", "link", "set", "dev", "vethc", "state", "3")
    eventually("it is reached again", lambda: pings(a, b))


@pytest.mark.parametrize("flag", ["isolated", "locked"])
def test_a_port_of_which_the_bridge_keeps_something_away_is_left_to_the_bridge(a: Host, b: Host, flag: str) -> None:
    gateway = wire.mac_of(b.container, "eth0")
    b.run("bridge", "fdb", "replace", gateway, "dev", "vethc", "master", "static")
    b.run("bridge", "link", "set", "dev", "vethc", flag, "on")
    try:
        eventually("its packets go by the bridge", partial(_go_by_the_bridge, b, a))
    finally:
        b.run("bridge", "link", "set", "dev", "vethc", flag, "off")


@pytest.mark.parametrize("link", ["docker0", "overlay"])
def test_it_is_off_where_a_program_of_xdp_would_be_bypassed(a: Host, b: Host, link: str) -> None:
    [name] = [one for one in a.run("ls", "/sys/class/net").split() if one.startswith(link)]
    descriptor = made(PASS, XDP)
    namespaces.inside(a.namespace, lambda: attach_xdp(name, descriptor))
    try:
        assert f"it would bypass the XDP program of {name}" in slow(a)
    finally:
        namespaces.inside(a.namespace, lambda: attach_xdp(name, -1))
        os.close(descriptor)
    fast(a)


def test_an_underlay_without_ethernet_headers_is_named(lab: Lab, a: Host, b: Host) -> None:
    third = lab.host("c", start=False, settings={"fast-path": "auto", "iface": "tunnel"})
    try:
        third.run("ip", "tuntap", "add", "tunnel", "mode", "tun")
        namespaces.ip(third.namespace, "address add 198.19.8.1/24 dev tunnel", "link set tunnel up")
        third.start()
        third.start_container()
        eventually("it says why", lambda: "packets of tunnel have no Ethernet header" in third.status()["fast_path"])
    finally:
        third.stop()
        lease = f"/coreos.com/network/subnets/{third.subnet.network_address}"
        lab.remove_host(third)
        lab.etcdctl("del", "--prefix", lease)
    # To the tests after this one it would be a peer.
    eventually("it is no peer", lambda: [len(one.status()["peers"]) for one in (a, b)] == [1, 1])


@pytest.mark.parametrize(
    ("add", "remove", "word"),
    [
        ("ip rule add from 192.0.2.1 lookup 77", "ip rule delete from 192.0.2.1 lookup 77", "policy routing, table 77"),
        (
            "ip xfrm policy add src 198.18.1.0/24 dst 192.0.2.0/24 dir out tmpl src 198.18.1.1 dst 192.0.2.1 proto esp "
            "mode tunnel",
            "ip xfrm policy delete src 198.18.1.0/24 dst 192.0.2.0/24 dir out",
            "IPsec",
        ),
        (
            "nft add table netdev mine; nft add chain netdev mine in { type filter hook ingress device eth0 priority 0 "
            "\\; }; nft add rule netdev mine in ip saddr 192.0.2.1 drop",
            "nft delete table netdev mine",
            "netdev mine",
        ),
        (
            "nft add table inet mine; nft add chain inet mine in { type filter hook ingress device eth0 priority 0 "
            "\\; }; nft add rule inet mine in ip saddr 192.0.2.1 drop",
            "nft delete table inet mine",
            "inet mine",
        ),
        (
            "nft add table bridge mine; nft add chain bridge mine in { type filter hook forward priority 0 \\; "
            "policy drop \\; }",
            "nft delete table bridge mine",
            "bridge mine",
        ),
        (
            "tc qdisc add dev docker0 clsact; tc filter add dev docker0 ingress pref 9 bpf bytecode '1,6 0 0 0,' "
            "classid 1:1",
            "tc qdisc delete dev docker0 clsact",
            "another filter",
        ),
        (
            "tc qdisc add dev docker0 root tbf rate 800mbit burst 256k latency 50ms",
            "tc qdisc delete dev docker0 root",
            "queueing discipline of docker0",
        ),
        (
            "tc qdisc add dev $(ls /sys/class/net | grep overlay) root tbf rate 800mbit burst 256k latency 50ms",
            "tc qdisc delete dev $(ls /sys/class/net | grep overlay) root",
            "queueing discipline of overlay",
        ),
        (
            "ip route add blackhole $(ip -4 -o address show docker0 | sed 's|.* inet ||; s|.1/24 .*|.77|')",
            "ip route delete $(ip route show type blackhole | cut -d' ' -f2)",
            "the route to",
        ),
        (
            "tc qdisc add dev eth0 clsact 2>/dev/null; tc filter add dev eth0 ingress pref 9 bpf bytecode '1,6 0 0 0,' "
            "classid 1:1",
            "tc filter delete dev eth0 ingress pref 9; "
            "tc filter show dev eth0 ingress | grep -q . || tc qdisc delete dev eth0 clsact",
            "another filter",
        ),
        (
            "iptables -I INPUT -s 198.18.0.0/15 -p udp -j DROP",
            "iptables -D INPUT -s 198.18.0.0/15 -p udp -j DROP",
            "DROP",
        ),
    ],
    ids=[
        "policy-routing",
        "ipsec",
        "netdev",
        "inet-ingress",
        "bridge-policy",
        "filter-of-the-bridge",
        "limit-of-the-bridge",
        "limit-of-the-device",
        "route",
        "filter",
        "drop-of-the-underlay",
    ],
)
def test_it_is_off_where_it_would_bypass_what_an_administrator_made(
    a: Host, b: Host, add: str, remove: str, word: str
) -> None:
    a.run("sh", "-c", add)
    try:
        eventually("it is off", lambda: word in str(a.status()["fast_path"]), timeout_s=15)
        before = by_the_bridge(a)
        if word != "DROP":
            all_arrives(a, b)
            assert by_the_bridge(a) - before > len(DATA)
    finally:
        a.run("sh", "-c", remove)
    fast(a)


def test_a_peer_that_routes_lead_to_by_another_interface_is_left_to_the_kernel(a: Host, b: Host) -> None:
    a.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", b.namespace)
    try:
        for host, other, number in ((a, b, 1), (b, a, 2)):
            namespaces.ip(host.namespace, f"address add 198.19.7.{number}/24 dev eth1", "link set eth1 up")
            way = f"via 198.19.7.{3 - number} dev eth1 src {host.address}"
            namespaces.ip(host.namespace, f"route add {other.address}/32 {way}")
        assert "other interfaces than eth0" in slow(a)
        before = int(a.run("cat", "/sys/class/net/eth1/statistics/tx_bytes"))
        all_arrives(a, b)
        assert int(a.run("cat", "/sys/class/net/eth1/statistics/tx_bytes")) - before > len(DATA)
    finally:
        a.run("ip", "link", "delete", "eth1")
    fast(a)
    fast(b)


def test_spoofed_packets_of_a_peer_never_arrive_and_are_counted(lab: Lab, a: Host, b: Host) -> None:
    """A peer whose packets claim to come from another peer's container."""
    before, seen = counted(b), wire.Sightings()
    forged = wire.udp(a.container_address, b.container_address, 9, wire.token(3))
    port = 8285
    if b.status()["backend"] == "vxlan":
        port = 8472
        forged = wire.vxlan(1, wire.frame(wire.mac_of(b.namespace, "overlay.1"), "02:00:00:00:00:09", forged))
    third = lab.host("c")
    try:
        eventually("c is known", lambda: len(b.status()["peers"]) == 2)
        with wire.watching(b.container, "eth0", seen):
            wire.as_nobody(third.namespace, b.address, port, forged)
        eventually("it is counted", lambda: counted(b)["in_spoofed"] > before.get("in_spoofed", 0))
        assert seen.numbers == set()
    finally:
        third.stop()
        lab.remove_host(third)


def test_off_and_cleanup_leave_no_program_behind(a: Host, b: Host) -> None:
    assert programs(a)
    a.stop()
    a.settings["fast-path"] = "off"
    try:
        a.start()
        assert slow(a) == "the setting fast-path is off"
        assert programs(a) == []
        before = by_the_bridge(a)
        all_arrives(a, b)
        assert by_the_bridge(a) - before > len(DATA)
    finally:
        a.stop()
        a.settings["fast-path"] = "auto"
        a.start()
    fast(a)
    a.stop(signal.SIGKILL)
    assert programs(a)
    assert "fast path at eth0" in a.cleanup()
    assert programs(a) == []
    a.start()

"""`overlayd ping` between real hosts: which peers answer, and how large a packet may be."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from overlayd import backends
from overlayd.probe.peers import PathSpec, PingTarget
from overlayd.probe.ping import measure
from overlayd.probe.report import PeerReport
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import ETCD, Host, Lab, environment
from tests.testbed.polling import eventually

# Whether a backend has a device with an address of its own.
DEVICE_ANSWERS = {"vxlan": True, "udp": True, "host-gw": False, "wireguard": True}


def ping(host: Host, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, the JSON document and the messages of `overlayd ping --json`."""
    argv = [*host.overlayd("ping"), "--json", "--timeout", "0.5", *words]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def overhead_bytes(backend: str) -> int:
    """What a backend adds to a packet, over IPv4."""
    overhead = backends.load(backend).facts.overhead_bytes
    assert overhead is not None
    return overhead[4]


def of(document: dict[str, Any], host: Host) -> dict[str, Any]:
    """The report about one peer."""
    (found,) = (peer for peer in document["peers"] if peer["public_ip"] == str(host.address))
    return dict(found)


@contextmanager
def port_mtu(lab: Lab, host: Host, mtu_bytes: int) -> Iterator[None]:
    """Make the switch's port to a host drop larger packets without an ICMP error, as switches do."""
    port = host.port
    lab.run(["ip", "link", "set", port, "mtu", str(mtu_bytes)])
    # The bridge then has the smallest MTU of its ports; this does not affect what it forwards.
    try:
        yield
    finally:
        lab.run(["ip", "link", "set", port, "mtu", "1500"])


@contextmanager
def unsegmented(host: Host) -> Iterator[None]:
    """Make a host send each packet by itself, as it is on a wire.

    Datagrams that udp's daemon hands over together cross a veth as one packet, which a bridge forwards without
    a look at its port's MTU (is_skb_forwardable, Linux 6.18).
    """
    host.run("ip", "link", "set", "eth0", "gso_max_segs", "1")
    try:
        yield
    finally:
        # GSO_MAX_SEGS of linux/netdevice.h.
        host.run("ip", "link", "set", "eth0", "gso_max_segs", "65535")


def test_every_peer_answers_at_the_full_size(a: Host, b: Host, backend: str) -> None:
    status, document, problems = ping(a)
    assert (status, problems) == (0, ""), document
    peer = of(document, b)
    assert peer["underlay"]["answered_by"] == str(b.address)
    # The overlay's largest packet on the underlay; wireguard leaves room for IPv6, which this underlay does not use.
    assert peer["underlay"]["path_bytes"] == a.mtu_bytes + overhead_bytes(backend)
    assert peer["overlay"]["answered_by"] == str(b.subnet[0] if DEVICE_ANSWERS[backend] else b.subnet[1])
    assert peer["overlay"]["path_bytes"] == a.mtu_bytes
    assert peer["overlay"]["received"] == peer["overlay"]["sent"] == 3
    assert 0 < peer["overlay"]["rtt_ms"] < 1000
    assert peer["remarks"] == []


def test_the_table_shows_each_peer_and_the_source_of_the_echoes(a: Host, b: Host) -> None:
    done = subprocess.run(a.overlayd("ping"), capture_output=True, text=True, env=environment(), timeout=60, check=True)
    heading, line, source = done.stdout.splitlines()
    assert heading.split()[0] == "PEER"
    assert line.split()[:2] == [str(b.address), str(b.subnet)]
    assert source == f"containers are asked from container {a.container_address}"


def test_a_switch_that_drops_large_packets_is_measured(lab: Lab, a: Host, b: Host, backend: str) -> None:
    # wireguard pads packets to a multiple of 16 bytes.
    overhead, filled = overhead_bytes(backend), 15 if backend == "wireguard" else 0
    with port_mtu(lab, b, 1400), unsegmented(a), unsegmented(b):
        status, document, _ = ping(a)
        peer = of(document, b)
        assert status == 1
        # A bridge forwards four bytes more than a port's MTU, the size of a VLAN tag.
        assert 1400 <= peer["underlay"]["path_bytes"] <= 1404
        assert 1400 - filled <= peer["overlay"]["path_bytes"] + overhead <= 1404
        assert "lost without an ICMP error" in peer["overlay"]["problem"]
    assert ping(a)[0] == 0


def test_a_peer_whose_interface_is_down_does_not_answer(a: Host, b: Host, lab: Lab) -> None:
    lab.run(["ip", "link", "set", b.port, "down"])
    try:
        status, document, _ = ping(a, "--count", "2")
    finally:
        lab.run(["ip", "link", "set", b.port, "up"])
    peer = of(document, b)
    assert status == 1
    assert (peer["underlay"]["answered_by"], peer["overlay"]["answered_by"]) == (None, None)
    assert peer["overlay"]["path_bytes"] is None
    eventually("b answers again", lambda: ping(a, "--count", "1", "--no-mtu")[0] == 0)


def test_peers_are_named_by_any_of_their_addresses(a: Host, b: Host, backend: str) -> None:
    # Names are resolved before any packet is sent, so one backend is enough.
    for name in () if backend != "vxlan" else (str(b.address), str(b.subnet), str(b.container_address)):
        status, document, _ = ping(a, name, "--count", "1", "--no-mtu")
        assert (status, len(document["peers"])) == (0, 1), name
    status, _, problems = ping(a, "198.18.1.77")
    assert (status, str(b.address) in problems) == (2, True)


def test_without_a_daemon_the_peers_come_from_etcd(a: Host, b: Host, backend: str) -> None:
    a.stop()
    try:
        # With udp the daemon carries the packets: without it, only the underlay answers.
        status, document, _ = ping(a, "--count", "1")
        peer = of(document, b)
        assert peer["underlay"]["answered_by"] == str(b.address)
        assert status == (1 if backend == "udp" else 0), peer
    finally:
        a.start()
    eventually("b answers again", lambda: ping(a, "--count", "1", "--no-mtu")[0] == 0)


def test_the_smaller_mtu_that_a_router_reports_is_used_in_both_ip_versions() -> None:
    one, router, two = (namespaces.unique(name) for name in ("ping1", "pingr", "ping2"))
    try:
        for name in (one, router, two):
            namespaces.make(name)
        namespaces.run(router, ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        for number, name, mtu in ((1, one, 1500), (2, two, 1380)):
            namespaces.ip(
                router,
                f"link add r{number} type veth peer name eth0 netns {name}",
                f"link set r{number} mtu {mtu} up",
                f"address add 198.18.{number}.1/24 dev r{number}",
                f"address add fd00:{number}::1/64 dev r{number} nodad",
            )
            namespaces.ip(
                name,
                f"link set eth0 mtu {mtu} up",
                f"address add 198.18.{number}.2/24 dev eth0",
                f"address add fd00:{number}::2/64 dev eth0 nodad",
                f"route add default via 198.18.{number}.1",
                f"route add ::/0 via fd00:{number}::1",
            )
        both = [_target("198.18.2.2"), _target("fd00:2::2")]

        def measured() -> list[PeerReport] | None:
            found = namespaces.inside(one, lambda: measure(both, count=1, timeout_s=0.5))
            return found if all(peer.overlay.answered_by for peer in found) else None

        # After a link came up, IPv6 neighbour discovery takes a moment.
        found = eventually("both answer", measured)
        assert found is not None
    finally:
        for name in (one, router, two):
            namespaces.remove(name)
    for peer, by in zip(found, ("198.18.1.1", "fd00:1::1"), strict=True):
        assert peer.overlay.path_bytes == 1380, peer
        assert peer.overlay.problem == f"packet too big, says {by}"
        assert not peer.well


def _target(address: str) -> PingTarget:
    way = PathSpec(addresses=(ip_address(address),), wished_bytes=1500)
    return PingTarget(subnet="none", backend="none", underlay=way, overlay=way)


def test_a_peer_without_docker_is_told_from_one_that_is_dead(lab: Lab, a: Host, b: Host, backend: str) -> None:
    bare = lab.host("bare", start=False)
    try:
        bare.start()
        eventually("a knows it", lambda: str(bare.subnet) in str(a.status()["peers"]))
        _status, document, _ = ping(a, str(bare.address), "--count", "1", "--no-mtu")
        peer = of(document, bare)
        if DEVICE_ANSWERS[backend]:
            assert peer["overlay"]["answered_by"] == str(bare.subnet[0])
            assert f"{bare.subnet[1]}, docker's bridge" in peer["remarks"][0]
        else:
            assert peer["overlay"]["answered_by"] is None
            assert "the host is up" in peer["remarks"][1]
    finally:
        lab.remove_host(bare)
        # Otherwise its lease would stay for a day.
        key = f"/coreos.com/network/subnets/{str(bare.subnet).replace('/', '-')}"
        lab.run(["env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={ETCD}", "del", key])
    eventually("its lease ends", lambda: len(a.status()["peers"]) == 1)

"""The fast path: packets between containers pass both hosts' network stacks by, and arrive as they do without it."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from tests.testbed.netns import namespaces
from tests.testbed.netns.fast_path import (
    DATA,
    FEW_BYTES,
    a_rule,
    all_arrives,
    ask,
    by_the_bridge,
    counted,
    echo,
    fast,
    fast_laboratory,
    fetched,
    flowing,
    moved,
    said_of_ttl_one,
    set_offload,
    slow,
    ttl_at,
)
from tests.testbed.netns.lab import Host, Lab
from tests.testbed.netns.traffic import pinging, pings
from tests.testbed.polling import eventually

UDP_SEGMENT = 103


@pytest.fixture(
    scope="module",
    params=[
        "vxlan",
        "vxlan clsact",
        "host-gw",
        pytest.param("udp", marks=pytest.mark.slow),
        pytest.param("auto", marks=pytest.mark.slow),
    ],
)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a and b, between which packets take the fast path."""
    with fast_laboratory(tmp_path_factory.mktemp("fast"), request.param) as lab:
        yield lab


@pytest.fixture
def a(lab: Lab) -> Host:
    """The first host, on the fast path."""
    fast(lab.hosts[0])
    return lab.hosts[0]


@pytest.fixture
def b(lab: Lab) -> Host:
    """The second host, on the fast path."""
    fast(lab.hosts[1])
    return lab.hosts[1]


def test_what_containers_send_passes_the_stack_by_and_arrives_unharmed(a: Host, b: Host) -> None:
    for source, target in ((a, b), (b, a)):
        before = by_the_bridge(source)
        all_arrives(source, target)
        assert by_the_bridge(source) - before < FEW_BYTES
    eventually("they are counted", lambda: counted(a).get("sent", 0) > 20 and counted(a).get("received", 0) > 20)


def test_without_it_the_same_packets_go_by_the_bridge(a: Host, b: Host) -> None:
    with a_rule(a, "FORWARD", "-s", str(a.subnet), "-j", "LOG"):
        assert "LOG" in slow(a)
        before = by_the_bridge(a)
        all_arrives(a, b)
        assert by_the_bridge(a) - before > len(DATA)
    fast(a)


@pytest.mark.parametrize("offload", ["tso", "gso", "tx", "sg", "gro", "rx", "tx-udp_tnl-segmentation"])
def test_each_offload_may_be_off(a: Host, b: Host, offload: str) -> None:
    """At the underlay and at the containers, both ways."""
    places = [(host.enter, "eth0") for host in (a, b)]
    places += [(["ip", "netns", "exec", host.container], "eth0") for host in (a, b)]
    before = by_the_bridge(a)
    for enter, device in places:
        set_offload(enter, device, offload, "off")
    try:
        all_arrives(a, b)
        all_arrives(b, a)
        assert by_the_bridge(a) - before < 2 * FEW_BYTES
    finally:
        for enter, device in places:
            set_offload(enter, device, offload, "on")


def test_tcpdump_reads_what_is_sent(a: Host, b: Host) -> None:
    """The outer headers, their checksum, and the container's packet inside, of a flow that is on the fast path."""
    with echo(b, port=9999) as port:
        assert ask(a, b, port, count=3) == 3
        # It takes this port for another protocol by itself.
        decoder = ["-T", "vxlan"] if a.status()["backend"] == "vxlan" else []
        argv = ["tcpdump", "-n", "-v", *decoder, "-c", "8", "-i", "eth0", "udp"]
        with subprocess.Popen([*a.enter, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as seen:
            assert seen.stderr is not None
            while "listening on" not in seen.stderr.readline():
                pass
            assert ask(a, b, port, count=8) == 8
            said, _ = seen.communicate(timeout=20)
    assert "bad cksum" not in said
    one, other = f"{a.container_address}", f"{b.container_address}.9999"
    if a.status()["backend"] == "vxlan":
        assert "VXLAN, flags [I] (0x08), vni 1" in said
        assert f"{a.address}." in said
        assert f"> {b.address}.8472" in said
    if a.status()["backend"] != "udp":
        # flannel's udp has no header of its own that tcpdump would know.
        assert any(one in line and f"> {other}" in line for line in said.splitlines())
        assert any(f"{other} > {one}" in line for line in said.splitlines())


def test_a_small_udp_packet_and_its_answer_take_it_after_the_first(a: Host, b: Host) -> None:
    with echo(b) as port:
        asked = ask(a, b, port, count=50)
        assert asked == 50
    before = by_the_bridge(a)
    with echo(b) as port:
        assert ask(a, b, port, count=200) == 200
    # 200 datagrams of 100 bytes by the kernel would be 25,600 bytes.
    assert by_the_bridge(a) - before < 5000


def test_several_datagrams_in_one_packet_arrive_as_they_were_sent(a: Host, b: Host) -> None:
    """UDP_SEGMENT of linux/udp.h, as QUIC has it: the container hands them to the kernel as one."""
    size, data = 1000, DATA[:20_500]
    listener = namespaces.inside(b.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with listener, namespaces.inside(a.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
        listener.bind(("0.0.0.0", 7010))
        listener.settimeout(2)
        end.connect((str(b.container_address), 7010))
        for _ in range(3):
            end.send(b"x")
            listener.recv(10)
        end.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        end.send(data)
        assert [listener.recv(65536) for _ in range(21)] == [data[at : at + size] for at in range(0, len(data), size)]


def test_a_router_more_is_not_noticed_and_ttl_one_is_answered_by_the_host(a: Host, b: Host) -> None:
    """Two hosts lower the TTL by one each, as without the fast path."""
    seen = {}
    for name in ("fast", "slow"):
        with a_rule(a, "FORWARD", "-s", str(a.subnet), "-j", "LOG") if name == "slow" else nullcontext():
            if name == "slow":
                slow(a)
            with echo(b) as port:
                seen[name] = (ttl_at(a, b, port), said_of_ttl_one(a, b, port))
    fast(a)
    # The backend udp has one router more: its daemon.
    slow_ttl = 61 if a.status()["backend"] == "udp" else 62
    assert (seen["fast"], seen["slow"]) == ((62, str(a.subnet[1])), (slow_ttl, str(a.subnet[1])))


def test_no_ping_and_no_byte_is_lost_while_it_is_turned_off_and_on_under_traffic(a: Host, b: Host) -> None:
    with pinging(a, b) as losses, flowing(a, b) as flow:
        for _ in range(2):
            with a_rule(a, "FORWARD", "-d", str(b.subnet), "-m", "comment", "--comment", "count"):
                slow(a)
                moved(flow)
            fast(a)
            moved(flow)
    assert losses.lost == 0
    assert flow.harmed == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_goes_on_without_the_daemon_and_with_the_next_one(a: Host, b: Host, number: signal.Signals) -> None:
    with pinging(a, b) as losses, flowing(a, b) as flow:
        a.stop(number)
        before = by_the_bridge(a)
        moved(flow)
        assert by_the_bridge(a) - before < 100_000
        a.start()
        fast(a)
        moved(flow)
    assert flow.harmed == 0
    # Pings go the kernel's way, which is the daemon's with the backend udp.
    assert losses.lost == 0 or a.status()["backend"] == "udp"


def test_a_published_port_is_answered_from_the_address_that_was_asked(a: Host, b: Host) -> None:
    """With the same ports before and after a connection to the container itself: no older flow decides."""
    published = str(b.subnet[1])
    rule = ["PREROUTING", "-t", "nat", "-d", published, "-p", "tcp", "--dport", "8080", "-j", "DNAT"]
    rule += ["--to-destination", f"{b.container_address}:5300"]
    rule_udp = ["PREROUTING", "-t", "nat", "-d", published, "-p", "udp", "--dport", "8081", "-j", "DNAT"]
    rule_udp += ["--to-destination", f"{b.container_address}:7007"]
    # Docker's are in the chain DOCKER, and no obstacle.
    b.run("iptables", "-t", "nat", "-N", "DOCKER")
    b.run("iptables", "-t", "nat", "-I", "PREROUTING", "-j", "DOCKER")
    for one in (rule, rule_udp):
        b.run("iptables", "-t", "nat", "-A", "DOCKER", *one[3:])
    try:
        fast(b)
        for _ in range(2):
            for address, port in ((published, 8080), (str(b.container_address), 5300)):
                assert fetched(a, b, address, port) == b"yes"
        with echo(b):
            assert ask(a, b, 8081, count=5, address=published) == 5
            assert ask(a, b, 7007, count=5) == 5
            # One socket that sends to both.
            for _ in range(3):
                assert ask(a, b, 7007, count=3, source_port=40404) == 3
                assert ask(a, b, 8081, count=3, address=published, source_port=40404) == 3
        assert b.status()["fast_path"] == "on"
    finally:
        b.run("iptables", "-t", "nat", "-D", "PREROUTING", "-j", "DOCKER")
        b.run("iptables", "-t", "nat", "-F", "DOCKER")
        b.run("iptables", "-t", "nat", "-X", "DOCKER")


def test_a_container_that_is_gone_is_not_reached_and_the_next_one_is(a: Host, b: Host) -> None:
    b.stop_container()
    with pytest.raises((OSError, AssertionError)):
        namespaces.inside(a.container, lambda: socket.create_connection((str(b.container_address), 5300), timeout=1))
    b.start_container()
    eventually("the new container is reached", lambda: pings(a, b))
    all_arrives(a, b)

    def past_the_bridge() -> bool:
        before = by_the_bridge(b)
        all_arrives(b, a)
        return by_the_bridge(b) - before < FEW_BYTES

    eventually("the new container is on the fast path", past_the_bridge)

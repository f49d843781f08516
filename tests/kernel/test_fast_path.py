"""The fast path: packets between containers pass both hosts' network stacks by, and arrive as they do without it.

Whether packets took it is told by the interfaces on the kernel's way: what a container sends comes out of its bridge,
unless the programs took it before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from overlayd.errors import CommandFailed
from overlayd.lib import process
from tests.testbed.netns import namespaces, wire
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pinging, pings, send_over_tcp
from tests.testbed.polling import eventually

CONFIGS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
    "auto": {"Type": "auto"},
}
DATA = random.Random(14).randbytes(3_000_000)
# What the first packets of a connection and acknowledgements may take of the kernel's way.
FEW_BYTES = len(DATA) // 20
HEALTH = 9470
# linux/in.h; Python has none of them.
IP_RECVERR, IP_RECVTTL = 11, 12


@pytest.fixture(scope="module", params=list(CONFIGS))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a and b, between which packets take the fast path."""
    with laboratory(tmp_path_factory.mktemp("fast"), CONFIGS[request.param]) as lab:
        for name in ("a", "b"):
            lab.host(name, settings={"healthz-port": HEALTH})
        eventually("b is reachable from a", lambda: pings(lab.hosts[0], lab.hosts[1]))
        for host in lab.hosts:
            if request.param == "udp":
                assert "without checksums" in slow(host)
                host.run("ethtool", "-K", "eth0", "tx", "off", "tx-udp_tnl-segmentation", "off")
            fast(host)
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


def fast(host: Host) -> None:
    """Wait until the host says that packets take the fast path."""
    eventually(f"{host.name} is on the fast path", lambda: host.status().get("fast_path") == "on", timeout_s=15)


def slow(host: Host) -> str:
    """Wait until the host says that they do not; why."""
    eventually(f"{host.name} is off the fast path", lambda: host.status().get("fast_path") != "on", timeout_s=15)
    return str(host.status()["fast_path"])


def by_the_bridge(host: Host) -> int:
    """How many bytes containers' packets had that came through the bridge, so far."""
    return int(host.run("cat", "/sys/class/net/docker0/statistics/rx_bytes"))


def counted(host: Host) -> dict[str, int]:
    """The programs' counters, by the last look of the daemon."""
    text = host.run("curl", "-s", f"http://127.0.0.1:{HEALTH}/metrics")
    lines = (line.split() for line in text.splitlines() if line.startswith("overlayd_fast_path_packets_total{"))
    return {name.split('"')[1]: int(float(value)) for name, value in lines}


def all_arrives(source: Host, target: Host) -> None:
    """Send the data from container to container, and compare it and the source address."""
    received = send_over_tcp(source, target, DATA)
    assert (received.digest, received.peer) == (hashlib.sha256(DATA).hexdigest(), source.container_address)


@contextmanager
def a_rule(host: Host, *words: str) -> Iterator[None]:
    """A rule of an administrator for the length of the block."""
    host.run("iptables", "-I", *words)
    try:
        yield
    finally:
        host.run("iptables", "-D", *words)


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
    if a.status()["backend"] == "udp":
        pytest.skip("it needs some of them off")
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


def set_offload(enter: list[str], device: str, offload: str, state: str) -> None:
    """Switch an offload; some switch others, which is as it is on real cards."""
    try:
        process.run([*enter, "ethtool", "-K", device, offload, state])
    except CommandFailed as error:
        if "Cannot change" not in error.message and "Operation not supported" not in error.message:
            raise


def test_a_small_udp_packet_and_its_answer_take_it_after_the_first(a: Host, b: Host) -> None:
    with echo(b) as port:
        asked = ask(a, b, port, count=50)
        assert asked == 50
    before = by_the_bridge(a)
    with echo(b) as port:
        assert ask(a, b, port, count=200) == 200
    # 200 datagrams of 100 bytes by the kernel would be 25,600 bytes.
    assert by_the_bridge(a) - before < 5000


@contextmanager
def echo(host: Host, *, port: int = 7007) -> Iterator[int]:
    """A program in the host's container that sends each datagram back."""
    end = namespaces.inside(host.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    end.bind(("0.0.0.0", port))
    end.settimeout(0.05)
    stop = threading.Event()

    def answer() -> None:
        while not stop.is_set():
            try:
                data, sender = end.recvfrom(65536)
            except TimeoutError:
                continue
            end.sendto(data, sender)

    thread = threading.Thread(target=answer)
    with end:
        thread.start()
        try:
            yield port
        finally:
            stop.set()
            thread.join()


def ask(source: Host, target: Host, port: int, *, count: int, address: str = "", source_port: int = 0) -> int:
    """How many of some datagrams, one after the other, are answered within a second each."""
    answered = 0
    with namespaces.inside(source.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
        end.bind(("0.0.0.0", source_port))
        end.settimeout(1)
        for number in range(count):
            end.sendto(f"{number:100}".encode(), (address or str(target.container_address), port))
            with contextlib.suppress(TimeoutError):
                answered += end.recv(1000) == f"{number:100}".encode()
    return answered


def test_a_router_more_is_not_noticed_and_ttl_one_is_answered_by_the_host(a: Host, b: Host) -> None:
    """Two hosts lower the TTL by one each, as without the fast path."""
    seen = {}
    for name in ("fast", "slow"):
        with a_rule(a, "FORWARD", "-s", str(a.subnet), "-j", "LOG") if name == "slow" else steady():
            if name == "slow":
                slow(a)
            with echo(b) as port:
                seen[name] = (ttl_at(a, b, port), said_of_ttl_one(a, b, port))
    fast(a)
    # The backend udp has one router more: its daemon.
    slow_ttl = 61 if a.status()["backend"] == "udp" else 62
    assert (seen["fast"], seen["slow"]) == ((62, str(a.subnet[1])), (slow_ttl, str(a.subnet[1])))


@contextmanager
def steady() -> Iterator[None]:
    """Nothing is changed."""
    yield


def ttl_at(source: Host, target: Host, port: int) -> int:
    """The TTL of a datagram as it arrives, of a flow that is known."""
    listener = namespaces.inside(target.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with listener, namespaces.inside(source.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
        listener.bind(("0.0.0.0", port + 1))
        listener.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        listener.settimeout(2)
        for _ in range(3):
            end.sendto(b"x", (str(target.container_address), port + 1))
            _data, (found, *_rest), _flags, _sender = listener.recvmsg(100, 100)
        return int.from_bytes(found[2][:4], "little")


def said_of_ttl_one(source: Host, target: Host, port: int) -> str:
    """Who answers that the TTL was exceeded, to a datagram with TTL 1."""
    with namespaces.inside(source.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
        end.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        end.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        end.sendto(b"x", (str(target.container_address), port))
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                _data, (found, *_rest), _flags, _who = end.recvmsg(100, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                time.sleep(0.05)
                continue
            # sock_extended_err, then the sockaddr_in of who said so
            return socket.inet_ntoa(found[2][20:24])
        return "nobody"


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


@dataclass
class Flow:
    """A TCP connection that carries a known sequence: bytes so far, and how many were not as sent."""

    received: int = 0
    harmed: int = 0
    problem: str = ""


def moved(flow: Flow) -> None:
    """Wait until more of the sequence has arrived."""
    before = flow.received
    eventually("the connection goes on", lambda: flow.received > before + 200_000 or bool(flow.problem), timeout_s=10)
    assert not flow.problem


@contextmanager
def flowing(source: Host, target: Host, *, address: str = "", port: int = 5300) -> Iterator[Flow]:
    """Send a sequence from container to container for the length of the block, at about 2 MB a second."""
    flow, stop = Flow(), threading.Event()
    block = random.Random(5).randbytes(20_000)
    listener = namespaces.inside(target.container, lambda: socket.create_server(("0.0.0.0", port)))
    listener.settimeout(10)

    def receive() -> None:
        try:
            connection, _peer = listener.accept()
            connection.settimeout(15)
            with connection:
                while chunk := connection.recv(65536):
                    at = flow.received % len(block)
                    flow.harmed += chunk != (block + block + block + block + block)[at : at + len(chunk)]
                    flow.received += len(chunk)
        except OSError as error:
            flow.problem = str(error)

    def send() -> None:
        try:
            with namespaces.inside(source.container, lambda: socket.create_connection(where, timeout=10)) as client:
                client.settimeout(15)
                while not stop.wait(0.01):
                    client.sendall(block)
        except OSError as error:
            flow.problem = str(error)

    where = (address or str(target.container_address), port)
    threads = [threading.Thread(target=call) for call in (receive, send)]
    with listener:
        for thread in threads:
            thread.start()
        try:
            yield flow
        finally:
            stop.set()
            for thread in threads:
                thread.join()


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


def programs(host: Host) -> list[str]:
    """What is attached to the host's interfaces, with the queueing disciplines that only programs need."""
    return filters(host) + [line for line in host.run("tc", "qdisc", "show").splitlines() if "clsact" in line]


def filters(host: Host) -> list[str]:
    """What is attached to the host's interfaces."""
    found = []
    for link in json.loads(host.run("ip", "-json", "link", "show")):
        for direction in ("ingress", "egress"):
            said = host.run("tc", "filter", "show", "dev", link["ifname"], direction)
            found += [f"{link['ifname']} {line.strip()}" for line in said.splitlines()]
    return found


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
        del a.settings["fast-path"]
        a.start()
    fast(a)
    a.stop(signal.SIGKILL)
    assert programs(a)
    assert "fast path at eth0" in a.cleanup()
    assert programs(a) == []
    a.start()


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
        assert b.status()["fast_path"] == "on"
    finally:
        b.run("iptables", "-t", "nat", "-D", "PREROUTING", "-j", "DOCKER")
        b.run("iptables", "-t", "nat", "-F", "DOCKER")
        b.run("iptables", "-t", "nat", "-X", "DOCKER")


def fetched(source: Host, target: Host, address: str, port: int) -> bytes:
    """What a server in the target's container says to a connection, always from the same port."""
    listener = namespaces.inside(target.container, lambda: socket.create_server(("0.0.0.0", 5300)))
    listener.settimeout(5)

    def serve() -> None:
        connection, _peer = listener.accept()
        with connection:
            # The client closes first, so that its port is free at once.
            connection.sendall(b"yes")
            with contextlib.suppress(ConnectionResetError):
                connection.recv(1)

    def connect() -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Reset instead of TIME_WAIT: the next connection has the same ports.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.bind(("0.0.0.0", 45454))
        client.settimeout(5)
        client.connect((address, port))
        return client

    server = threading.Thread(target=serve)
    with listener:
        server.start()
        try:
            with namespaces.inside(source.container, connect) as client:
                return client.recv(10)
        finally:
            server.join()


def test_a_container_cannot_send_by_it_with_an_address_that_is_not_its_own(a: Host, b: Host) -> None:
    seen = wire.Sightings()
    before = counted(a)
    forged = wire.udp(a.subnet[77], b.container_address, 9, wire.token(1))
    gateway = wire.mac_of(a.namespace, "docker0")
    own = wire.mac_of(a.container, "eth0")
    with wire.watching(b.container, "eth0", seen):
        wire.send(a.container, "eth0", [wire.frame(gateway, own, forged)])
    eventually("it is counted", lambda: counted(a)["out_source"] > before["out_source"])


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


def test_a_limited_container_is_left_to_the_kernel(a: Host, b: Host) -> None:
    a.run("tc", "qdisc", "add", "dev", "vethc", "root", "tbf", "rate", "800mbit", "burst", "256k", "latency", "50ms")
    try:

        def by_the_kernel() -> bool:
            before = by_the_bridge(a)
            all_arrives(a, b)
            return by_the_bridge(a) - before > len(DATA)

        eventually("its packets go by the bridge", by_the_kernel)
    finally:
        a.run("tc", "qdisc", "delete", "dev", "vethc", "root")


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
            "tc qdisc add dev eth0 clsact 2>/dev/null; tc filter add dev eth0 ingress pref 9 bpf bytecode '1,6 0 0 0,' "
            "classid 1:1",
            "tc filter delete dev eth0 ingress pref 9",
            "another filter",
        ),
        (
            "iptables -I INPUT -s 198.18.0.0/15 -p udp -j DROP",
            "iptables -D INPUT -s 198.18.0.0/15 -p udp -j DROP",
            "DROP",
        ),
    ],
    ids=["policy-routing", "ipsec", "netdev", "filter", "drop-of-the-underlay"],
)
def test_it_is_off_where_it_would_bypass_what_an_administrator_made(
    lab: Lab, a: Host, b: Host, add: str, remove: str, word: str
) -> None:
    if word == "DROP" and a.status()["backend"] == "host-gw":
        pytest.skip("by plain routes no packet is in UDP")
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


def test_spoofed_packets_of_a_peer_never_arrive_and_are_counted(lab: Lab, a: Host, b: Host) -> None:
    """A peer whose packets claim to come from another peer's container."""
    if b.status()["backend"] != "vxlan":
        pytest.skip("plain packets have no outer source that could differ")
    before, seen = counted(b), wire.Sightings()
    forged = wire.udp(a.container_address, b.container_address, 9, wire.token(3))
    forged = wire.vxlan(1, wire.frame(wire.mac_of(b.namespace, "overlay.1"), "02:00:00:00:00:09", forged))
    third = lab.host("c")
    try:
        fast(third)
        eventually("c is known", lambda: len(b.status()["peers"]) == 2)
        with wire.watching(b.container, "eth0", seen):
            wire.as_nobody(third.namespace, b.address, 8472, forged)
        eventually("it is counted", lambda: counted(b)["in_spoofed"] > before.get("in_spoofed", 0))
        assert seen.numbers == set()
    finally:
        third.stop()
        lab.remove_host(third)

"""Which packets the udp backend lets through, in flannel's format on the wire."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from overlayd.backends.packets import checksum
from overlayd.kernel.tun import open_queue
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import NETWORK, SWITCH_ADDRESS, Host, Lab, laboratory
from tests.testbed.netns.namespaces import inside
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

PORT = 8285


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A udp lab of its own: hosts a and b."""
    with laboratory(tmp_path_factory.mktemp("wire"), {"Type": "udp"}) as lab:
        first, second = lab.host("a"), lab.host("b", settings={"healthz-port": PORT})
        eventually("b is reachable from a", lambda: pings(first, second))
        yield lab


def inner(source: IPv4Address, target: IPv4Address, payload: bytes, *, ttl: int = 64) -> bytes:
    """A bare IPv4 packet with a UDP datagram without checksum from port 7 to port 7777."""
    datagram = b"\x00\x07\x1e\x61" + (8 + len(payload)).to_bytes(2) + b"\0\0" + payload
    length = (20 + len(datagram)).to_bytes(2)
    header = b"\x45\0" + length + b"\0\0\0\0" + bytes([ttl, 17]) + b"\0\0" + source.packed + target.packed
    return header[:10] + checksum(header).to_bytes(2) + header[12:] + datagram


@contextmanager
def listening(host: Host) -> Iterator[socket.socket]:
    """A socket on port 7777 of a host's container."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", 7777))
        made.settimeout(5)
        return made

    with inside(host.container, make) as found:
        yield found


def send(namespace: str, source: IPv4Address, packet: bytes, target: IPv4Address) -> None:
    """Send a datagram from an underlay address."""

    def make() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.bind((str(source), 0))
            out.sendto(packet, (str(target), PORT))

    inside(namespace, make)


def test_a_datagram_is_the_bare_packet_with_its_ttl_reduced_once_at_each_end(lab: Lab) -> None:
    a, b = lab.hosts
    with listening(b) as container:
        container.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        send(a.namespace, a.address, inner(a.container_address, b.container_address, b"good", ttl=40), b.address)
        payload, ancillary, _flags, sender = container.recvmsg(100, 100)
    assert payload == b"good"
    assert sender[0] == str(a.container_address)
    # The forwarder and the host's routing to the bridge each reduce the TTL by one.
    assert ancillary[0][2][0] == 38


def test_only_packets_of_peers_from_their_own_subnets_are_let_through(lab: Lab) -> None:
    a, b = lab.hosts
    to = b.container_address
    with listening(b) as container:
        send(lab.switch, SWITCH_ADDRESS, inner(a.container_address, to, b"no lease"), b.address)
        send(a.namespace, a.address, inner(b.subnet[9], to, b"foreign source"), b.address)
        send(a.namespace, a.address, inner(IPv4Address("198.18.1.254"), to, b"outside"), b.address)
        send(a.namespace, a.address, inner(a.container_address, to, b"short")[:-1], b.address)
        send(a.namespace, a.address, b"", b.address)
        send(a.namespace, a.address, inner(a.container_address, to, b"last hop", ttl=1), b.address)
        send(a.namespace, a.address, inner(a.container_address, to, b"good"), b.address)
        assert container.recv(100) == b"good"


def test_dropped_packets_are_counted_by_reason(lab: Lab) -> None:
    a, b = lab.hosts
    to = b.container_address

    def dropped() -> dict[str, float]:
        url = f"http://{b.address}:{PORT}/metrics"
        text = inside(b.namespace, lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        return {
            sample.labels["reason"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "overlayd_udp_dropped_packets_total"
        }

    before = dropped()
    for _ in range(3):
        send(lab.switch, SWITCH_ADDRESS, inner(a.container_address, to, b"no lease"), b.address)
    for _ in range(2):
        send(a.namespace, a.address, inner(b.subnet[9], to, b"foreign source"), b.address)
    send(a.namespace, a.address, inner(a.container_address, to, b"short")[:-1], b.address)
    send(a.namespace, a.address, inner(a.container_address, to, b"last hop", ttl=1), b.address)
    # A rule drops packets of hosts without a lease already; without the rule the forwarder drops and counts them.
    expected = {"no lease": 0, "foreign source": 2, "malformed": 1, "no hop left": 1}
    eventually(
        "each is counted",
        lambda: {reason: dropped()[reason] - before[reason] for reason in expected} == expected,
    )
    # An accept rule before ours lets such packets reach the forwarder, until the next look puts our rule first again.
    first = ("-t", "mangle", "-I", "INPUT", "-s", str(SWITCH_ADDRESS), "-j", "ACCEPT")

    def counted() -> bool:
        b.run("iptables", *first)
        send(lab.switch, SWITCH_ADDRESS, inner(a.container_address, to, b"no lease"), b.address)
        return dropped()["no lease"] > before["no lease"]

    eventually("the forwarder counts it", counted)
    script = "while iptables -t mangle -D INPUT -s $0 -j ACCEPT 2>/dev/null; do :; done"
    b.run("sh", "-c", script, str(SWITCH_ADDRESS))


def test_a_device_that_another_program_took_makes_the_host_unready(lab: Lab) -> None:
    _a, b = lab.hosts

    def data_path() -> str:
        return str(json.loads(b.call("status", "--json").stdout)["checks"]["data-path"])

    # The daemon is stopped with SIGSTOP, or it would make the device again at once.
    daemon = int(b.status()["pid"])
    os.kill(daemon, signal.SIGSTOP)
    try:
        b.run("ip", "link", "delete", "overlay0")
        queue = inside(b.namespace, lambda: open_queue("overlay0"))
    finally:
        os.kill(daemon, signal.SIGCONT)
    try:
        eventually("the daemon says so", lambda: "open TUN device overlay0" in data_path())
    finally:
        os.close(queue)
    eventually("and takes it back", lambda: data_path() == "ok")
    eventually("b is reachable from a", lambda: pings(*lab.hosts))


def test_the_status_says_how_several_packets_are_carried_at_once(lab: Lab) -> None:
    _a, b = lab.hosts
    assert b.status()["forwarder"] == "UDP_SEGMENT, UDP_GRO"
    said = b.call("status").stdout
    assert ["forwarder", "UDP_SEGMENT,", "UDP_GRO"] in [line.split() for line in said.splitlines()]


def test_an_address_without_a_lease_is_answered_with_icmp_unreachable(lab: Lab) -> None:
    a, b = lab.hosts
    free = next(s for s in NETWORK.subnets(new_prefix=24) if not s.overlaps(a.subnet) and not s.overlaps(b.subnet))
    said = namespaces.run(a.container, ["sh", "-c", f"ping -n -c 1 -W 2 {free[9]} || true"])
    assert "Destination Net Unreachable" in said


def test_another_program_on_the_port_is_reported(lab: Lab, tmp_path: Path) -> None:
    third = lab.host("c", start=False)
    try:

        def occupy() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((str(third.address), PORT))
            return made

        with inside(third.namespace, occupy):
            third.start(ready=False)
            eventually(
                "the daemon says so", lambda: "8285" in third.log.read_text() and "ss -ulpn" in third.log.read_text()
            )
    finally:
        lab.remove_host(third)

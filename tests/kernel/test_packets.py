"""Packets between containers on different hosts, with each backend."""

from __future__ import annotations

import hashlib
import platform
import random

from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host
from tests.testbed.netns.traffic import ICMP_AND_IP_BYTES, answered_pings, lost_of_size, send_over_tcp
from tests.testbed.records import Connection, Recorder

OVERHEAD_BYTES = {"vxlan": 50, "host-gw": 0, "udp": 28, "wireguard": 80}


def test_containers_ping_each_other_both_ways(a: Host, b: Host, backend: str, record_property: Recorder) -> None:
    lost = {}
    for source, target in ((a, b), (b, a)):
        found = answered_pings(source.container, target.container_address)
        lost[f"{source.name} to {target.name}"] = found.lost
        # A lab's bridge stands for docker's.
        where = {"backend": backend, "docker": "none", "kernel": platform.release()}
        Connection(source=source.name, target=target.name, sent=found.sent, lost=found.lost, **where).record(
            record_property
        )
    assert lost == dict.fromkeys(lost, 0)


def test_a_host_reaches_a_container_of_another(a: Host, b: Host) -> None:
    assert "1 received" in a.run("ping", "-n", "-c", "1", "-W", "2", str(b.container_address))


def test_tcp_arrives_unharmed_with_its_source_address(a: Host, b: Host) -> None:
    data = random.Random(2).randbytes(1_000_000)
    for source, target in ((a, b), (b, a)):
        received = send_over_tcp(source, target, data)
        assert received.count == len(data)
        assert received.digest == hashlib.sha256(data).hexdigest()
        assert received.peer == source.container_address


def test_containers_are_told_the_underlays_mtu_less_the_encapsulation(a: Host, b: Host, backend: str) -> None:
    assert a.mtu_bytes == 1500 - OVERHEAD_BYTES[backend]


def test_a_packet_of_exactly_the_mtu_passes_and_a_byte_more_is_refused(a: Host, b: Host) -> None:
    assert lost_of_size(a, b, a.mtu_bytes) == "0 of 2"
    assert lost_of_size(a, b, a.mtu_bytes + 1) == "2 of 2"


def test_a_container_with_a_larger_mtu_is_told_the_right_one(a: Host, b: Host) -> None:
    larger = a.mtu_bytes + 100
    namespaces.ip(a.namespace, f"link set vethc mtu {larger}", f"link set docker0 mtu {larger}")
    namespaces.ip(a.container, f"link set eth0 mtu {larger}")
    try:
        ping = f"ping -n -c 2 -i 0.2 -W 1 -M do -s {a.mtu_bytes + 1 - ICMP_AND_IP_BYTES} {b.container_address}"
        said = namespaces.run(a.container, ["sh", "-c", f"{ping} 2>&1 || true"])
        assert "0 received" in said
        # First the host answers (ICMP "fragmentation needed"); then the container's own kernel knows the MTU.
        assert f"mtu = {a.mtu_bytes}" in said or f"mtu={a.mtu_bytes}" in said
        assert lost_of_size(a, b, a.mtu_bytes) == "0 of 2"
    finally:
        namespaces.ip(a.container, f"link set eth0 mtu {a.mtu_bytes}", "route flush cache")
        namespaces.ip(a.namespace, "link set docker0 mtu 1500", "link set vethc mtu 1500")

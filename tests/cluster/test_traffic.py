"""Packets between containers on different hosts, with each backend."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address

from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.measure import connection, overlay_rate, ping, underlay_rate
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.polling import eventually
from tests.testbed.records import Fault, Recorder

# Lower limits, as other work may share the machine. `invoke bench` reports the throughput.
FLOORS = {"vxlan": 0.5, "host-gw": 0.7, "udp": 0.01}
ATTEMPTS = 6
_SOURCE_PORT_TEST = "5311"
_INTERVAL_S = 0.01


def test_every_container_reaches_every_other(backend: str, site: ClusterSite, record_property: Recorder) -> None:
    found = [connection(source, target, backend) for source, target in site.pairs]
    for one in found:
        one.record(record_property)
    assert [one for one in found if one.lost] == []


def test_every_daemon_reaches_containers_of_every_peer_from_a_container_of_its_own(
    backend: str, site: ClusterSite
) -> None:
    # The daemon's unit may not enter containers; a separate service does, and gives it sockets.
    for machine in site.hosts:
        others = {str(other.probe_address()) for other in site.hosts if other is not machine}
        eventually("all are reached", partial(_has_reached, machine, others), timeout_s=60)
        eventually("its container asks", machine.asks_from_probe, timeout_s=60)
        assert machine.unit("overlayd-containers.socket", "ActiveState")["ActiveState"] == "active"


def _has_reached(machine: Machine, others: set[str]) -> bool:
    return {one["answered_by"] for one in machine.status()["reach"] if one["state"] == "reached"} == others


def test_other_end_sees_the_containers_own_address(backend: str, a: Machine, b: Machine) -> None:
    argv = ["iperf3", "--json", "--port", _SOURCE_PORT_TEST]
    b.in_probe(*argv, "--server", "--one-off", "--daemon", "--logfile", "/tmp/seen.json")
    target = str(b.probe_address())

    def sent() -> bool:
        client = ["docker", "exec", "probe", *argv, "--client", target, "--bytes", "100K", "--connect-timeout", "1000"]
        return a.succeeds(*client)

    eventually("100 KB over TCP", sent, timeout_s=10)
    # The server writes its result when the client has ended.
    seen = eventually("the server's report", lambda: b.in_probe("cat", "/tmp/seen.json").strip(), timeout_s=5)
    b.in_probe("sh", "-c", ": > /tmp/seen.json")
    assert IPv4Address(json.loads(seen)["start"]["accepted_connection"]["host"]) == a.probe_address()


def test_docker_runs_on_the_leased_subnet(backend: str, site: ClusterSite) -> None:
    subnets = set()
    for machine in site.hosts:
        bip, mtu = machine.bip(), machine.variables()["FLANNEL_MTU"]
        assert f"inet {bip} " in machine.run("ip", "-4", "address", "show", "docker0")
        assert f"mtu {mtu} " in machine.in_probe("ip", "link", "show", "eth0")
        assert machine.probe_address() in bip.network
        subnets.add(bip.network)
    assert len(subnets) == len(site.hosts)


def test_throughput_is_a_fair_part_of_the_underlays(backend: str, a: Machine, b: Machine) -> None:
    # What the data path can do: in turns with the underlay, until other work on this machine leaves it the time.
    parts: list[float] = []
    while len(parts) < ATTEMPTS and max(parts, default=0.0) < FLOORS[backend]:
        parts.append(overlay_rate(a, b) / underlay_rate(a, b))
    assert max(parts) >= FLOORS[backend], parts


def test_restarting_overlayd_loses_no_packet_and_leaves_docker_alone(
    backend: str, a: Machine, b: Machine, record_property: Recorder
) -> None:
    target, docker = b.probe_address(), a.unit("docker", "MainPID")
    overlayd = a.unit("overlayd", "MainPID")
    with ThreadPoolExecutor(1) as background:
        pinging = background.submit(ping, a.in_probe, target, count=400, interval_s=_INTERVAL_S)
        a.run("systemctl", "restart", "overlayd")
        result = pinging.result()
    took_s = round(result.lost * _INTERVAL_S, 3)
    what = "overlayd restarted by systemd"
    Fault(fault=what, backend=backend, sent=result.sent, lost=result.lost, recovered_s=took_s).record(record_property)
    assert a.unit("overlayd", "MainPID") != overlayd
    assert a.unit("docker", "MainPID") == docker
    if backend == "udp":
        # The daemon is the data path: packets are lost while it does not run, and flow again afterwards.
        eventually("packets flow again", lambda: ping(a.in_probe, target).lost == 0, timeout_s=10)
    else:
        assert result.lost == 0, result


def test_traffic_passes_the_rules_of_docker_28(backend: str, a: Machine, b: Machine) -> None:
    target = b.probe_address()
    raw = f"PREROUTING -d {target}/32 ! -i docker0 -j DROP"
    comment = "-m comment --comment overlayd -j"
    user = b.run("iptables", "-S", "DOCKER-USER")
    chain = "DOCKER-USER" if f"{comment} OVERLAYD-DOCKER" in user else "FORWARD"
    b.shell(f"iptables -t raw -A {raw} && iptables -A DOCKER ! -i docker0 -o docker0 -j DROP")
    try:
        assert ping(a.in_probe, target).lost == 0
        if backend == "udp":
            return  # without the daemon there is no data path that could be tried without our accept rules
        # Without our accept rules it does not pass, and each of the two is needed.
        b.run("systemctl", "stop", "overlayd.service")
        b.shell(f"iptables -t raw -D PREROUTING {comment} OVERLAYD-PREROUTING")
        assert ping(a.in_probe, target, count=2).received == 0
        b.shell(f"iptables -t raw -I PREROUTING {comment} OVERLAYD-PREROUTING")
        assert ping(a.in_probe, target).lost == 0
        b.shell(f"iptables -D {chain} {comment} OVERLAYD-DOCKER")
        assert ping(a.in_probe, target, count=2).received == 0
        # The daemon restores the missing rules, before Docker's.
        b.run("systemctl", "start", "overlayd")
        eventually("the daemon put its rules back", lambda: ping(a.in_probe, target).lost == 0, timeout_s=10)
    finally:
        b.shell(f"iptables -t raw -D {raw}; iptables -D DOCKER ! -i docker0 -o docker0 -j DROP")
        b.run("systemctl", "start", "overlayd")

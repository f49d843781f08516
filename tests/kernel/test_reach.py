"""Reachability, measured by the daemon and by commands with echoes between containers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network
from typing import Any

import pytest

from overlayd.leases.keys import lease_name
from overlayd.leases.subnets import Subnets
from tests.testbed.netns import namespaces
from tests.testbed.netns.flannel_host import PREFIX
from tests.testbed.netns.lab import NETWORK, Host, Lab, laboratory
from tests.testbed.netns.traffic import pings, pings6
from tests.testbed.polling import eventually

# From a fault to the status that reports it; the requirement is 30.
SAID_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts in a dual-stack network."""
    with laboratory(tmp_path_factory.mktemp("reach"), {"Type": "vxlan"}, dual=True) as lab:
        lab.host("a")
        lab.host("b")
        yield lab


@pytest.fixture
def a(lab: Lab) -> Host:
    return lab.hosts[0]


@pytest.fixture
def b(lab: Lab, a: Host) -> Host:
    """The second host, once the first one reports it as reached."""
    host = lab.hosts[1]
    eventually("a has reached b", lambda: reach(a, host) == ["reached", "reached"], timeout_s=SAID_WITHIN_S)
    eventually("b has reached a", lambda: reach(host, a) == ["reached", "reached"], timeout_s=SAID_WITHIN_S)
    return host


def measured(host: Host) -> list[dict[str, Any]]:
    """The daemon's measurements for each peer and IP version."""
    path = host.run_dir / "reach.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


def reach(host: Host, peer: Host) -> list[str]:
    """The state of the path from a host to a peer, for each IP version."""
    return [one["state"] for one in measured(host) if one["public_ip"] in (str(peer.address), str(peer.address6))]


@contextmanager
def rule(host: Host, *words: str, program: str = "iptables") -> Iterator[None]:
    """Put a rule first into a chain of the mangle table where the daemon puts no rule before it."""
    chain, *rest = words
    host.run(program, "-w", "-t", "mangle", "-I", chain, *rest)
    try:
        yield
    finally:
        host.run(program, "-w", "-t", "mangle", "-D", chain, *rest)


def doctor(host: Host) -> tuple[int, dict[str, Any]]:
    """Exit status of `overlayd doctor`, and what its check of reachability found."""
    done = host.call("doctor", "--json", "--no-arp")
    (found,) = (one for one in json.loads(done.stdout)["findings"] if one["name"] == "reachability")
    return done.returncode, found


def test_every_peer_is_reached_and_status_ping_and_doctor_agree(a: Host, b: Host) -> None:
    status = a.call("status", "--json")
    document = json.loads(status.stdout)
    assert (status.returncode, document["checks"]["reachability"], document["unreached"]) == (0, "ok", [])
    assert document["probed_from"] == f"container {a.container_address}, {a.container_address6}"
    containers = {one["answered_by"] for one in document["reach"]}
    assert containers == {str(b.container_address), str(b.container_address6)}
    assert all(time.time() - one["reached_at_s"] < 60 for one in document["reach"])
    ping = a.call("ping", "--json", "--timeout", "0.5")
    told = json.loads(ping.stdout)
    assert ping.returncode == 0, told
    assert [peer["containers"]["answered_by"] for peer in told["peers"]] == [
        str(b.container_address),
        str(b.container_address6),
    ]
    assert all(peer["containers"]["path_bytes"] == a.mtu_bytes for peer in told["peers"])
    code, found = doctor(a)
    assert (found["state"], "of 2 a container answers" in found["found"]) == ("ok", True), (code, found)


def test_packets_dropped_on_their_way_into_a_peer_are_reported_with_the_direction(
    a: Host, b: Host, record_property: Callable[[str, object], None]
) -> None:
    # The peer's host still answers inside the overlay, so all other checks are content.
    with rule(b, "FORWARD", "-d", str(b.container_address), "-j", "DROP"):
        began = time.monotonic()
        eventually("a's status says so", lambda: a.status()["unreached"], timeout_s=SAID_WITHIN_S)
        record_property("seconds from a rule that drops to the status that says so", round(time.monotonic() - began, 1))
        (said,) = a.status()["unreached"]
        assert str(b.container_address) in said
        assert "its host does" in said
        assert f"{b.subnet[0]} (hop 2)" in said
        eventually(
            "the direction is known",
            lambda: "its requests arrive here, ours do not arrive there" in str(a.status()["unreached"]),
            timeout_s=SAID_WITHIN_S,
        )
        assert "reachability" in a.call("status").stdout.partition("not in order")[2]
        assert a.call("status").returncode == 1
        ping = a.call("ping", "--json", "--timeout", "0.3", "--no-mtu", str(b.address))
        (peer,) = json.loads(ping.stdout)["peers"]
        assert (ping.returncode, peer["containers"]["answered_by"], peer["well"]) == (1, None, False)
        assert peer["overlay"]["answered_by"] == str(b.subnet[0])
        assert "ours do not arrive there" in peer["said"]
        code, found = doctor(a)
        assert (code, found["state"]) == (1, "problem")
        assert "no check on this host says why" in found["found"]
        assert f"{b.subnet[0]} (hop 2)" in found["found"]
        # The other IP version is not reported.
        assert pings6(a, b)
        assert "reached" in reach(a, b)
    eventually("a has reached b again", lambda: reach(a, b) == ["reached", "reached"], timeout_s=SAID_WITHIN_S)
    assert a.call("status").returncode == 0


@pytest.mark.slow
def test_answers_dropped_on_this_host_are_reported_with_the_direction(a: Host, b: Host) -> None:
    source = ("-s", str(b.container_address6), "-j", "DROP")
    with rule(a, "FORWARD", *source, program="ip6tables"):
        eventually("a's status says so", lambda: a.status()["unreached"], timeout_s=SAID_WITHIN_S)
        assert str(b.container_address6) in str(a.status()["unreached"])
        assert pings(a, b)
        eventually(
            "the direction is known",
            lambda: (
                "nothing arrives from there any more" in str(a.status()["unreached"])
                or "answers are lost" in str(a.status()["unreached"])
            ),
            timeout_s=SAID_WITHIN_S,
        )
    eventually("a has reached b again", lambda: reach(a, b) == ["reached", "reached"], timeout_s=SAID_WITHIN_S)


def test_a_container_that_ends_is_no_alarm_and_one_that_starts_is_found(a: Host, b: Host) -> None:
    b.stop_container()
    eventually("a sees that nobody is there", lambda: reach(a, b)[0] == "no container", timeout_s=2 * SAID_WITHIN_S)
    assert a.status()["unreached"] == []
    assert a.call("status").returncode == 0
    # Without a container on b the host itself sends the echoes, and its status says what that cannot show.
    eventually("b asks from itself", lambda: "this host itself" in str(b.status()["probed_from"]))
    assert "no container runs on docker0" in b.status()["probed_from"]
    assert reach(b, a) == ["reached", "reached"]
    ping = b.call("ping", "--no-mtu", "--timeout", "0.3")
    assert (ping.returncode, "what rules do to containers' packets here is not seen" in ping.stdout) == (0, True)
    b.start_container()
    eventually("a has reached b again", lambda: reach(a, b)[0] == "reached", timeout_s=2 * SAID_WITHIN_S)
    eventually("b asks from its container", lambda: str(b.container_address) in str(b.status()["probed_from"]))


def test_the_rate_of_echoes_does_not_depend_on_the_number_of_peers_and_is_none_where_it_is_off(
    lab: Lab, a: Host, b: Host
) -> None:
    # Forty hosts that are switched off, whose leases are still there.
    free = [subnet for subnet in NETWORK.subnets(new_prefix=24) if subnet not in (a.subnet, b.subnet)][100:140]
    pairs = [(subnet, IPv6Network(f"fd42:0:0:{0xF000 + at:x}::/64")) for at, subnet in enumerate(free)]
    keys = [f"{PREFIX}/subnets/{lease_name(Subnets(v4=v4, v6=v6))}" for v4, v6 in pairs]
    for at, name in enumerate(keys):
        data = {"VNI": 1, "VtepMAC": f"02:00:00:00:01:{at:02x}"}
        addresses = {"PublicIP": f"198.18.1.{100 + at}", "PublicIPv6": f"2001:2:0:1::{100 + at}"}
        value = {**addresses, "BackendType": "vxlan", "BackendData": data, "BackendV6Data": data}
        lab.etcdctl("put", name, json.dumps(value))
    try:
        eventually("a follows them", lambda: len(measured(a)) == 82, timeout_s=SAID_WITHIN_S)
        sent, seconds = _echoes_of(a, 8.0)
        # Five echoes a second, plus a burst of four seconds' worth.
        assert 0 < sent <= 5 * seconds + 20, (sent, seconds)
        # The good peer is still measured, and the others do not make this host unready.
        assert a.call("status").returncode == 0, a.call("status").stdout
    finally:
        for name in keys:
            lab.etcdctl("del", name)


def _echoes_of(host: Host, seconds: float) -> tuple[int, float]:
    """How many echo requests leave a host's container, and in how many seconds."""

    def count() -> int:
        text = namespaces.run(host.container, ["cat", "/proc/net/snmp"])
        names, values = (line.split() for line in text.splitlines() if line.startswith("Icmp:"))
        return int(dict(zip(names, values, strict=True))["OutEchos"])

    before, began = count(), time.monotonic()
    time.sleep(seconds)
    return count() - before, time.monotonic() - began


@pytest.mark.slow
def test_a_peer_that_was_never_reached_is_reported_by_the_container_that_it_publishes(
    lab: Lab, a: Host, b: Host
) -> None:
    # This peer was never reached, and its container has none of the first addresses: only etcd has its address.
    host = lab.host("c", start=False)
    host.run("iptables", "-t", "mangle", "-I", "FORWARD", "-j", "DROP")
    host.run("ip6tables", "-t", "mangle", "-I", "FORWARD", "-j", "DROP")
    try:
        host.start()
        host.start_container()
        eventually(
            "a says that c's container is not reached",
            lambda: str(host.container_address) in str(a.status()["unreached"]),
            timeout_s=3 * SAID_WITHIN_S,
        )
        # It is one of two peers, so half of them are not reached.
        eventually("a is not ready", lambda: a.call("status").returncode == 1, timeout_s=3 * SAID_WITHIN_S)
    finally:
        lab.remove_host(host)
        lab.etcdctl("del", f"{PREFIX}/subnets/{lease_name(Subnets(v4=host.subnet, v6=host.subnet6))}")
    eventually("a follows", lambda: len(measured(a)) == 2, timeout_s=SAID_WITHIN_S)

"""Daemons start, stop, are killed and start again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial

import pytest

from tests.testbed.netns.lab import NETWORK, Host, Lab
from tests.testbed.netns.traffic import pinging, pings
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder


def ours(host: Host) -> str:
    """All that carries our mark in a host's kernel, as text."""
    links = [line for line in host.run("ip", "-br", "link").splitlines() if line.startswith("overlay")]
    routes = host.run("ip", "route", "show", "proto", "157").splitlines()
    rules = [line for line in host.run("iptables-save").splitlines() if "overlayd" in line.lower()]
    return "\n".join([*links, *routes, *rules])


def entries_for(host: Host, peer: Host) -> list[str]:
    """The entries of a host's kernel for one peer: routes, neighbours, FDB entries."""
    found = []
    for argv in (["ip", "route"], ["ip", "neighbour", "show", "nud", "permanent"], ["bridge", "fdb"]):
        lines = host.run(*argv).splitlines()
        found += [line for line in lines if str(peer.subnet.network_address) in line or f"dst {peer.address}" in line]
    return found


@pytest.fixture
def third(lab: Lab, a: Host, b: Host) -> Iterator[Host]:
    """A third host, whose lease ends five seconds after its daemon stops."""
    host = lab.host("c", lease_ttl_s=5)
    try:
        yield host
    finally:
        lab.remove_host(host)


def test_a_peer_joins_and_leaves(a: Host, b: Host, third: Host, backend: str) -> None:
    for host in (a, b):
        eventually(f"{host.name} reaches c", partial(pings, host, third))
        eventually(f"c reaches {host.name}", partial(pings, third, host))
    count = {"vxlan": 3, "host-gw": 1, "udp": 0, "wireguard": 0}[backend]
    assert len(entries_for(a, third)) == count
    third.stop(signal.SIGKILL)
    eventually("c's lease ends", lambda: str(third.subnet) not in str(a.status()["peers"]), timeout_s=30)
    eventually("c is gone from a", lambda: entries_for(a, third) == [])
    assert not pings(a, third)
    assert pings(a, b)


def test_cleanup_leaves_nothing_of_ours_and_everything_else(third: Host) -> None:
    third.run("ip", "link", "add", "mine", "type", "bridge")
    third.run("ip", "link", "set", "mine", "up")
    third.run("ip", "route", "add", "10.99.0.0/24", "dev", "mine")
    third.run("iptables", "-A", "FORWARD", "-s", "10.99.0.0/24", "-j", "DROP")
    third.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.99.0.0/24", "-j", "RETURN")
    assert ours(third)
    third.stop()
    third.cleanup()
    assert ours(third) == ""
    assert "10.99.0.0/24 dev mine" in third.run("ip", "route")
    rules = third.run("iptables-save")
    assert "-A FORWARD -s 10.99.0.0/24 -j DROP" in rules
    assert "-A POSTROUTING -s 10.99.0.0/24 -j RETURN" in rules
    assert "vethc" in third.run("ip", "link")
    assert list(third.run_dir.iterdir()) == []
    assert third.cleanup() == ""


def test_cleanup_works_after_a_crash(third: Host) -> None:
    third.stop(signal.SIGKILL)
    assert ours(third)
    assert "removed" in third.cleanup()
    assert ours(third) == ""


def test_a_killed_daemon_comes_back_on_its_subnet(a: Host, b: Host, backend: str, record_property: Recorder) -> None:
    subnet, entries = a.subnet, entries_for(a, b)
    with pinging(b, a) as losses:
        a.stop(signal.SIGKILL)
        # As after a reboot: the run directory is empty, the state directory is not.
        (a.run_dir / "subnet.env").unlink()
        a.start()
    losses.fault("daemon killed and started", backend).record(record_property)
    assert a.subnet == subnet
    assert entries_for(a, b) == entries
    assert losses.sent > 5
    if backend != "udp":
        assert losses.lost == 0
    eventually("b reaches a again", lambda: pings(b, a))


def test_a_clean_stop_leaves_packets_flowing(a: Host, b: Host, backend: str, record_property: Recorder) -> None:
    before = ours(a)
    try:
        with pinging(b, a) as losses:
            assert a.stop() == 0
            if backend != "udp":
                assert all(pings(a, b) for _ in range(10))
        if backend != "udp":
            losses.fault("daemon stopped", backend).record(record_property)
            assert ours(a) == before
            assert losses.lost == 0
    finally:
        a.start()


def test_a_quiet_resync_writes_nothing(lab: Lab, a: Host, b: Host) -> None:
    monitor = a.log.read_text()
    with pinging(a, b, interval_s=0.2, at_most=25) as losses:
        eventually("five seconds of pings", lambda: not pings_left(a))
    assert losses.lost == 0
    assert "firewall rules written" not in a.log.read_text()[len(monitor) :]


def pings_left(host: Host) -> bool:
    """Whether a ping is still running in the host's container."""
    return bool(host.run("ip", "netns", "pids", host.container).strip())


def test_packets_flow_while_etcd_is_away(lab: Lab, a: Host, b: Host, backend: str, record_property: Recorder) -> None:
    with pinging(a, b, interval_s=0.02) as losses:
        lab.stop_etcd()
        eventually("a knows that etcd is away", lambda: not a.status()["etcd_connected"], timeout_s=30)
        assert pings(b, a)
        lab.start_etcd()
        eventually("a knows that etcd is back", lambda: a.status()["etcd_connected"], timeout_s=60)
    losses.fault("etcd stopped and started", backend).record(record_property)
    assert losses.lost == 0
    assert a.subnet.subnet_of(NETWORK)

"""Debian's Prometheus with the shipped rules watches three real hosts: a peer is cut off, and comes back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.testbed import dashboard, prometheus
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import SWITCH_ADDRESS, Lab, laboratory
from tests.testbed.polling import eventually
from tests.testbed.prometheus import Prometheus

PORT = 8471
NAMES = ("a", "b", "c")
# Echoes go out every 10 s; after three lost ones comes the diagnosis.
TIMEOUT_S = 120.0
VXLAN_FROM_PEERS = ("-t", "raw", "PREROUTING", "-p", "udp", "--dport", "8472", "-j", "DROP")
# What these hosts have no samples of: the kernel refuses nothing, and the backend is vxlan.
WITHOUT_SAMPLES = ("overlayd_kernel_refusals_total", "overlayd_udp_dropped_packets_total")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three hosts that serve /metrics."""
    with laboratory(tmp_path_factory.mktemp("fleet"), {"Type": "vxlan"}) as lab:
        for name in NAMES:
            lab.host(name, settings={"healthz-port": PORT})
        yield lab


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[Prometheus]:
    """A Prometheus beside etcd, which has seen all three hosts reach each other."""
    assert shutil.which("prometheus"), "these tests need Debian's prometheus"
    with prometheus.running(
        lab.folder / "prometheus",
        [f"{host.address}:{PORT}" for host in lab.hosts],
        address=f"{SWITCH_ADDRESS}:9090",
        inside=lab.inside,
        enter=partial(namespaces.inside, lab.switch),
    ) as server:
        eventually("six ways are well", lambda: all_reached(server), timeout_s=TIMEOUT_S)
        eventually("nothing fires", lambda: not server.alerts(), timeout_s=TIMEOUT_S)
        yield server


def all_reached(server: Prometheus) -> bool:
    found = server.query('sum(overlayd_peers_reach{state="reached"}) == 6 and sum(overlayd_ready) == 3')
    return bool(found)


def exactly(server: Prometheus, expected: set[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """The alerts that fire, if they are the expected ones, else nothing."""
    found = server.alerts()
    return found if found.keys() == expected else {}


def empty_panels(server: Prometheus) -> set[tuple[str, str]]:
    """Title and expression of each target of the dashboard that shows nothing now."""
    targets = [(title, dashboard.filled(expr, interval="10s")) for title, expr in dashboard.expressions()]
    return {(title, expr) for title, expr in targets if not server.query(expr)}


def test_a_peer_that_is_cut_off_fires_an_alert_by_its_name_that_clears_when_it_is_back(
    lab: Lab, server: Prometheus
) -> None:
    cut_off = lab.hosts[2]
    peer = ("OverlaydPeerNotReached", str(cut_off.address))
    # Of two peers one is half of them, and c reaches nobody.
    unready = {("OverlaydNotReady", f"{host.address}:{PORT}", "reachability") for host in lab.hosts}
    empty = empty_panels(server)
    table, chain, *rule = VXLAN_FROM_PEERS[1:]
    cut_off.run("iptables", "-t", table, "-I", chain, *rule)
    try:
        # c says nothing of its peers once it knows that it reaches none; without the shortened `for:` it never does.
        fires = eventually("it fires", lambda: exactly(server, {peer, *unready}), timeout_s=TIMEOUT_S)
        words = fires[peer]["annotations"]
        assert "not reached from 2 hosts" in words["summary"]
        assert (
            f"lost on the way from {lab.hosts[0].address}:{PORT} {lab.hosts[1].address}:{PORT}." in words["description"]
        )
        assert f"`overlayd ping {cut_off.address}`" in words["description"]
        empty &= empty_panels(server)
    finally:
        cut_off.run("iptables", "-t", table, "-D", chain, *rule)
    eventually("it clears", lambda: not server.alerts(), timeout_s=TIMEOUT_S)
    # Healthy or not: each panel of the dashboard has shown something of these hosts.
    assert {title for title, expr in empty if not any(name in expr for name in WITHOUT_SAMPLES)} == set()


def test_a_host_that_loses_its_network_is_down_and_its_peers_name_it(lab: Lab, server: Prometheus) -> None:
    lost = lab.hosts[1]
    namespaces.ip(lab.switch, f"link set {lost.port} down")
    try:
        down = ("OverlaydDown", f"{lost.address}:{PORT}")
        eventually("it fires", lambda: down in server.alerts(), timeout_s=TIMEOUT_S)
    finally:
        namespaces.ip(lab.switch, f"link set {lost.port} up")
    eventually("it clears", lambda: not server.alerts() and all_reached(server), timeout_s=TIMEOUT_S)


def test_without_etcd_each_host_says_so_and_packets_flow(lab: Lab, server: Prometheus) -> None:
    away = {("OverlaydEtcdAway", f"{host.address}:{PORT}") for host in lab.hosts}
    lab.stop_etcd()
    try:
        eventually("all three say so", lambda: server.alerts().keys() == away, timeout_s=TIMEOUT_S)
        assert server.query('sum(overlayd_peers_reach{state="reached"}) == 6')
    finally:
        lab.start_etcd()
    eventually("it clears", lambda: not server.alerts(), timeout_s=TIMEOUT_S)

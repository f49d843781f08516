"""The auto backend with hosts on two network segments: each peer is reached by the best path for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.netns.lab import ETCD, Host, Lab, laboratory
from tests.testbed.netns.traffic import lost_of_size, pings
from tests.testbed.polling import eventually

# Behind a router: the switch's own namespace routes between the segments.
ROUTER, FAR = "198.18.2.254", "198.18.2.3"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a and b on one segment, c on another."""
    with laboratory(tmp_path_factory.mktemp("auto"), {"Type": "auto"}) as lab:
        lab.run(["ip", "address", "add", f"{ROUTER}/24", "dev", "br0"])
        lab.run(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])
        lab.host("a")
        lab.host("b")
        far = lab.host("c", start=False)
        far.run("ip", "address", "flush", "dev", "eth0", "scope", "global")
        far.run("ip", "address", "add", f"{FAR}/24", "dev", "eth0")
        far.run("ip", "route", "add", "default", "via", ROUTER)
        far.start()
        far.start_container()
        yield lab


@pytest.fixture
def c(lab: Lab) -> Host:
    return lab.hosts[2]


def paths(host: Host) -> dict[str, str]:
    """By which path a host reaches each peer, as its status says; keys are peers' public addresses."""
    return {peer["public_ip"]: peer["path"] for peer in host.status()["peers"]}


def test_each_peer_is_reached_by_its_best_path_and_status_says_which(a: Host, b: Host, c: Host) -> None:
    eventually("a knows both", lambda: paths(a) == {str(b.address): "direct", FAR: "vxlan"})
    eventually("c knows both", lambda: paths(c) == {str(a.address): "vxlan", str(b.address): "vxlan"})
    for one, other in ((a, b), (b, a), (a, c), (c, a)):
        eventually(f"{one.name} reaches {other.name}", lambda one=one, other=other: pings(one, other))  # type: ignore[misc]
    routes = a.run("ip", "route", "show", "proto", "157")
    assert f"{b.subnet} via {b.address} dev eth0" in routes
    assert f"{c.subnet} via {c.subnet[0]} dev overlay.1 onlink" in routes
    table = a.call("status").stdout
    assert "direct" in table
    assert "vxlan" in table


def test_the_mtu_is_good_for_every_path(a: Host, b: Host, c: Host) -> None:
    for other in (b, c):
        eventually(f"a reaches {other.name}", lambda other=other: pings(a, other))  # type: ignore[misc]
        assert lost_of_size(a, other, a.mtu_bytes) == "0 of 2"


def test_a_peer_that_moves_to_another_segment_changes_its_path(lab: Lab, a: Host, b: Host, c: Host) -> None:
    near = str(c.address)
    c.run("ip", "address", "flush", "dev", "eth0", "scope", "global")
    c.run("ip", "address", "add", f"{near}/24", "dev", "eth0")
    c.run("ip", "route", "replace", "default", "via", ETCD.partition("//")[2].partition(":")[0])
    eventually("a reaches it directly", lambda: paths(a) == {str(b.address): "direct", near: "direct"}, timeout_s=40)
    eventually("packets flow", lambda: pings(a, c) and pings(c, a))

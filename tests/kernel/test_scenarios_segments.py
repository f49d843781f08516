"""Hosts on two network segments with a router between: they join, leave, die and return."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.testbed.netns.families import FAMILIES, all_reach
from tests.testbed.netns.faults import power
from tests.testbed.netns.faults.cost import cost_of
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pings_all
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

BACKENDS: dict[str, dict[str, Any]] = {
    "auto": {"Type": "auto"},
    "vxlan-direct": {"Type": "vxlan", "DirectRouting": True},
}
KINDS = [
    # `make test` has this one alone.
    pytest.param(("auto", "dual"), id="auto-dual"),
    *(
        pytest.param((backend, network), id=f"{backend}-{network}", marks=pytest.mark.slow)
        for backend in BACKENDS
        for network in FAMILIES
        if (backend, network) != ("auto", "dual")
    ),
]
HEALED_S = 30.0
# The claim of the boot before to the host's address ends half a minute after it (leases/presence.py).
RETURNED_S = 60.0


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The backend, and which IP versions the network has."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture(scope="module")
def lab(kind: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a and b on one segment, c and d behind the router."""
    backend, network = kind
    with laboratory(tmp_path_factory.mktemp("segments"), BACKENDS[backend], routed=True, **FAMILIES[network]) as lab:
        for name in "abcd":
            lab.host(name, far=name in "cd")
        eventually("all reach each other", partial(all_reach, *lab.hosts), timeout_s=HEALED_S)
        yield lab


def routes(host: Host) -> list[str]:
    """The routes to peers in a host's kernel, of both IP versions."""
    return [
        line for family in ("-4", "-6") for line in host.run("ip", family, "route", "show", "proto", "157").split("\n")
    ]


def way_to(host: Host, peer: Host) -> set[str]:
    """The devices by which a host's kernel sends to a peer's containers."""
    found = set()
    for subnet in peer.subnets:
        words = next(line.split() for line in routes(host) if line.startswith(f"{subnet} "))
        found.add(words[words.index("dev") + 1].rstrip(".0123456789"))
    return found


def test_packets_take_a_plain_route_inside_a_segment_and_vxlan_through_the_router(lab: Lab) -> None:
    for one, other in itertools.permutations(lab.hosts, 2):
        near = one.segment == other.segment
        assert all(name.startswith("eth") == near for name in way_to(one, other)), (one.name, other.name, routes(one))
    assert all_reach(*lab.hosts)


def test_a_host_behind_the_router_joins_dies_and_leaves_no_trace_and_others_lose_nothing(
    lab: Lab, kind: tuple[str, str], record_property: Recorder
) -> None:
    before = {host.name: routes(host) for host in lab.hosts}
    with cost_of("a host behind the router joins and dies", kind[0], lab.hosts, record_property) as cost:
        joined = lab.host("new", far=True, lease_ttl_s=5)
        eventually("all reach it", partial(all_reach, *lab.hosts), timeout_s=HEALED_S)
        subnets = joined.subnets
        lab.remove_host(joined)
        cost.over()
        eventually(
            "its routes are gone when its lease has ended",
            lambda: all(routes(host) == before[host.name] for host in lab.hosts),
            timeout_s=HEALED_S,
        )
    assert cost.lost == []
    keys = lab.etcd.ctl("get", "--prefix", "--keys-only", "/coreos.com/network/subnets/")
    assert not any(str(subnet.network_address) in keys for subnet in subnets)


def test_a_host_behind_the_router_that_loses_power_returns_on_its_subnet_and_others_lose_nothing(
    lab: Lab, kind: tuple[str, str], record_property: Recorder
) -> None:
    a, b, _c, d = lab.hosts
    before = d.subnets
    with cost_of("a host behind the router loses power and returns", kind[0], (a, b), record_property) as cost:
        power.off(d)
        power.on(lab, d)
        eventually("its container runs", lambda: power.docker_starts(d), timeout_s=RETURNED_S)
        cost.over()
        eventually("all reach it", partial(all_reach, *lab.hosts), timeout_s=HEALED_S)
    assert d.subnets == before
    assert cost.lost == []


def test_a_router_that_is_away_divides_only_the_segments(
    lab: Lab, kind: tuple[str, str], record_property: Recorder
) -> None:
    a, b, c, _d = lab.hosts
    with cost_of("the router is away", kind[0], lab.hosts, record_property) as cost:
        lab.run(["ip", "link", "set", "br1", "down"])
        eventually("c does not reach a", lambda: not pings_all(c, a))
        lab.run(["ip", "link", "set", "br1", "up"])
        # The kernel takes IPv6 addresses away from a bridge that goes down.
        lab.run(["ip", "address", "replace", f"{c.segment.gateway6}/64", "dev", "br1", "nodad"])
        cost.over()
        eventually("all reach each other again", partial(all_reach, *lab.hosts), timeout_s=HEALED_S)
    assert cost.lost_between(a, b) == []
    assert cost.lost_between(a, c) != []
    assert all(host.status()["state"] == "ready" for host in lab.hosts)

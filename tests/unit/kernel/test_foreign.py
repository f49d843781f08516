"""Routes of others: which are in the way of ours, which are flannel's and taken over, which win for a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

import pytest

from overlayd.kernel.converge import Plan, conflicts_of, with_flannel_routes, without_conflicts
from overlayd.kernel.diff import OperationKind, diff
from overlayd.kernel.foreign import Destination, ForeignRoute, RouteConflicts
from overlayd.kernel.state import KernelObject, KernelState, Route

VXLAN = Route(dst=ip_network("10.5.2.0/24"), link="overlay.1", via=ip_address("10.5.2.0"), onlink=True)
DIRECT = Route(dst=ip_network("10.5.2.0/24"), link="eth0", via=ip_address("198.18.1.2"))
WHOLE = Route(dst=ip_network("10.5.0.0/16"), link="overlay0")
TO = Destination(subnet=ip_network("10.5.2.0/24"), public_ip=ip_address("198.18.1.2"))


def foreign(dst: str, link: str | None, via: str | None = None, *, metric: int = 0, protocol: int = 4) -> ForeignRoute:
    """One route of others."""
    gateway = ip_address(via) if via else None
    return ForeignRoute(dst=ip_network(dst), link=link, via=gateway, metric=metric, protocol=protocol)


def conflicts(wanted: Route | None, *routes: ForeignRoute, base: Sequence[KernelObject] = ()) -> RouteConflicts:
    """What these mean for one peer; without a route of its own, it is served by the one for the whole network."""
    objects: Mapping[str, tuple[KernelObject, ...]] = {"b": (wanted,) if wanted else ()}
    plan = Plan(base=tuple(base), peers=objects, destinations={"b": (TO,)}, paths={"b": "here"})
    return conflicts_of(plan, KernelState(), routes)


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (foreign("10.5.2.0/24", "br-7", protocol=2), "br-7 is a network of this host's own"),
        (foreign("10.5.2.0/24", "docker0", protocol=2), "overlayd docker settle"),
        (foreign("10.5.2.0/24", "eth1", "198.19.0.1"), "ip route delete 10.5.2.0/24 via 198.19.0.1 dev eth1"),
        (foreign("10.5.2.0/24", "eth1", metric=100), "metric 100"),
        (foreign("10.5.2.0/24", None), "blackhole 10.5.2.0/24"),
        # Ours would take a part of what it leads to.
        (foreign("10.5.0.0/20", "br-7", protocol=2), "is a part of what 10.5.0.0/20 dev br-7"),
        (foreign("10.5.0.0/16", "tun7", "198.19.0.1"), "is a part of what 10.5.0.0/16"),
        # Not the address that the lease names; that address, but by a program that knows what it does.
        (foreign("10.5.2.0/24", "eth0", "198.18.1.200"), "in the way"),
        (foreign("10.5.2.0/24", "eth0", "198.18.1.2", protocol=186), "in the way"),
        (foreign("10.5.2.0/24", "eth0", "198.18.1.2", metric=7), "in the way"),
    ],
    ids=str,
)
@pytest.mark.parametrize("wanted", [VXLAN, DIRECT], ids=["vxlan", "direct"])
def test_a_route_of_others_is_a_problem_of_the_peer_with_what_to_do(
    wanted: Route, route: ForeignRoute, said: str
) -> None:
    found = conflicts(wanted, route)
    assert said in found.peers["b"]
    assert not found.taken
    assert not found.partly
    plan = Plan(peers={"b": (wanted,)}, paths={"b": "vxlan"})
    assert diff(without_conflicts(plan, found).state(), KernelState()) == ()
    assert without_conflicts(plan, found).problems == found.peers


@pytest.mark.parametrize(
    "route",
    [
        foreign("10.5.2.0/24", "flannel.1", "10.5.2.0", protocol=0),
        foreign("10.5.2.0/24", "eth0", "198.18.1.2", protocol=0),
        foreign("10.5.2.0/24", "eth0", "198.18.1.2", protocol=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("wanted", [VXLAN, DIRECT], ids=["vxlan", "direct"])
def test_what_flannel_put_there_for_the_same_lease_is_changed_in_place(wanted: Route, route: ForeignRoute) -> None:
    found = conflicts(wanted, route)
    assert found == RouteConflicts(taken=frozenset({wanted}))
    plan = Plan(peers={"b": (wanted,)})
    (operation,) = diff(plan.state(), with_flannel_routes(KernelState(), found))
    assert (operation.verb, operation.object) == (OperationKind.CHANGE, wanted)


@pytest.mark.parametrize(
    "route",
    [
        # Wider than the network: not even read. Flannel's udp device; docker0 before it moved; nobody's.
        foreign("10.5.0.0/16", "flannel0", protocol=2),
        foreign("10.5.0.0/16", "docker0", protocol=2),
        foreign("10.5.0.0/16", None),
        foreign("10.5.3.0/24", "br-7", protocol=2),
        foreign("10.5.2.0/25", "flannel.1"),
    ],
    ids=str,
)
def test_what_takes_nothing_from_anybody_is_no_problem(route: ForeignRoute) -> None:
    assert conflicts(VXLAN, route) == RouteConflicts()


def test_a_narrower_route_wins_for_its_part_and_is_named() -> None:
    found = conflicts(VXLAN, foreign("10.5.2.128/25", "br-7", protocol=2))
    assert found.peers == {}
    assert found.partly["b"].startswith("a part of its subnet 10.5.2.0/24 goes elsewhere, by 10.5.2.128/25 dev br-7")


@pytest.mark.parametrize("metric", [0, 100])
def test_the_networks_own_route_takes_no_place(metric: int) -> None:
    found = conflicts(None, foreign("10.5.0.0/16", "eth1", "198.19.0.1", metric=metric), base=[WHOLE])
    assert "is in the way of the network's own route" in found.base[WHOLE]
    assert without_conflicts(Plan(base=(WHOLE,)), found).base == ()
    # The peers are no worse for it than the whole.
    assert (found.peers, found.partly) == ({}, {})


def test_flannels_own_route_to_the_network_is_taken_over() -> None:
    found = conflicts(None, foreign("10.5.0.0/16", "flannel0", protocol=2), base=[WHOLE])
    assert found == RouteConflicts(taken=frozenset({WHOLE}))


def test_where_one_route_serves_all_a_detour_is_named() -> None:
    found = conflicts(None, foreign("10.5.2.0/24", "br-7", protocol=2), base=[WHOLE])
    assert "its subnet 10.5.2.0/24 goes elsewhere, by 10.5.2.0/24 dev br-7" in found.partly["b"]
    assert (found.peers, found.base) == ({}, {})


def test_the_blackhole_behind_all_others_stands_behind_the_bridges_route() -> None:
    blackhole = Route(dst=ip_network("10.5.1.0/24"), link=None, metric=2**31)
    assert conflicts(VXLAN, foreign("10.5.1.0/24", "docker0", protocol=2), base=[blackhole]) == RouteConflicts()


def test_ipv6_is_judged_likewise() -> None:
    wanted = Route(dst=ip_network("fd42:0:0:2::/64"), link="overlay-v6.1", via=ip_address("fd42:0:0:2::"), onlink=True)
    to = Destination(subnet=ip_network("fd42:0:0:2::/64"), public_ip=ip_address("2001:db8:1::2"))
    # Of lower metric than ours, so that it would win.
    bridge = foreign("fd42:0:0:2::/64", "br-7", metric=256, protocol=2)
    plan = Plan(peers={"b": (wanted,)}, destinations={"b": (to,)})
    assert "br-7 is a network of this host's own" in conflicts_of(plan, KernelState(), [bridge]).peers["b"]
    assert conflicts_of(plan, KernelState(), [foreign("fd42:0:0:3::/64", "br-7", protocol=2)]) == RouteConflicts()

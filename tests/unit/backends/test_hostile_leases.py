"""Leases written by somebody who means harm: which of them are served, and at whose cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlayd import backends
from overlayd.backends.environment import Environment
from overlayd.backends.peers import LEASES_OF_A_HOST_AT_MOST, PEERS_AT_MOST, PROBLEMS_AT_MOST, ServedPeers, select_peers
from overlayd.backends.ranges import Index
from overlayd.backends.vxlan import vtep_mac
from overlayd.kernel.diff import diff
from overlayd.kernel.state import KernelState
from overlayd.leases.conflicts import CurrentNeeds, HostNeed
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.lib.addresses import contains, overlaps
from tests.unit.kernel.scenes import Scene

CONFIG = parse_network_config('{"Network": "10.5.0.0/16"}')
WIDE = parse_network_config('{"Network": "10.0.0.0/8"}')
OWN = Lease(
    v4=FamilyLease(subnet=IPv4Network("10.5.1.0/24"), public_ip=IPv4Address("198.18.1.1")), backend_type="host-gw"
)
LAN = HostNeed(network=ip_network("198.18.1.0/24"), what="eth0's network", ifname="eth0")
NEEDED = (
    LAN,
    HostNeed(network=ip_network("10.5.77.5"), what="etcd's address"),
    HostNeed(network=ip_network("10.5.78.254"), what="the default gateway"),
    HostNeed(network=ip_network("10.5.79.53"), what="the resolver"),
    HostNeed(network=ip_network("10.5.80.0/23"), what="br-7's network", ifname="br-7"),
)


def lease(subnet: str, address: str, *, created: int = 0) -> Lease:
    """A lease of host-gw's."""
    family_lease = FamilyLease(subnet=IPv4Network(subnet), public_ip=IPv4Address(address))
    return Lease(v4=family_lease, backend_type="host-gw", created=created)


def judged(*peers: Lease, network: NetworkConfig = CONFIG, one_route: bool = False) -> ServedPeers:
    """The verdict on these."""
    return select_peers(peers, own=OWN, network=network, backend_type="host-gw", needed=NEEDED, one_route=one_route)


GOOD = lease("10.5.2.0/24", "198.18.1.2", created=5)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lease("10.5.77.0/24", "198.18.1.9"), "its subnet 10.5.77.0/24 holds etcd's address 10.5.77.5"),
        (lease("10.5.78.0/24", "198.18.1.9"), "holds the default gateway 10.5.78.254"),
        (lease("10.5.79.0/24", "198.18.1.9"), "holds the resolver 10.5.79.53"),
        (lease("10.5.80.0/24", "198.18.1.9"), "is a part of br-7's network 10.5.80.0/23"),
        (lease("10.5.0.0/16", "198.18.1.9"), "overlaps ours"),
        (lease("0.0.0.0/0", "198.18.1.9"), "outside the network"),
        (lease("10.5.9.9/32", "198.18.1.9"), "too small to be leased"),
        (lease("10.5.9.0/24", "198.18.1.255"), "not one of a host: it is an end of eth0's network"),
        (lease("10.5.9.0/24", "198.18.1.0"), "not one of a host"),
        (lease("10.5.9.0/24", "0.0.0.1"), "not one of a host"),
        (lease("10.5.9.0/24", "255.255.255.255"), "not one of a host"),
        (lease("10.5.9.0/24", "10.5.9.7"), "inside its own subnet"),
        (lease("10.5.9.0/24", "10.5.1.7"), "inside our subnet"),
        (
            lease("10.5.9.0/24", "10.5.2.7", created=6),
            "address 10.5.2.7 is inside 10.5.2.0/24 of 198.18.1.2",
        ),
        (lease("10.5.9.0/24", "198.18.1.1"), "this host's own"),
        # Inside another's, around it, the same: whoever came later, or could not be leased at all.
        (lease("10.5.2.0/30", "198.18.1.9"), "its subnet 10.5.2.0/30 overlaps 10.5.2.0/24 of 198.18.1.2"),
        (lease("10.5.2.64/26", "198.18.1.9", created=1), "overlaps 10.5.2.0/24"),
        (lease("10.5.2.0/23", "198.18.1.9", created=1), "overlaps 10.5.2.0/24"),
    ],
    ids=lambda one: f"{one.subnets} {one.public_ip}" if isinstance(one, Lease) else "",
)
def test_a_lease_that_takes_what_is_not_its_own_is_named_and_the_good_one_served(bad: Lease, said: str) -> None:
    for order in ([bad, GOOD], [GOOD, bad]):
        found = judged(*order)
        assert found.served == (GOOD,)
        assert said in found.problems[bad.key_name]


def test_a_lease_around_a_peers_public_address_is_refused_if_it_is_the_younger() -> None:
    """The network over the underlay: whose address is older is not taken by whoever comes later."""
    peer, over = lease("10.5.2.0/24", "10.5.200.7", created=5), lease("10.5.200.0/24", "198.18.1.9", created=6)
    found = judged(over, peer)
    assert found.served == (peer,)
    assert "its subnet 10.5.200.0/24 holds 10.5.200.7, the public address of another" in found.problems[over.key_name]
    # And nobody puts an older host out by a public address inside its subnet.
    before, late = lease("10.5.200.0/24", "198.18.1.9", created=4), lease("10.5.2.0/24", "10.5.200.7", created=5)
    assert judged(late, before).served == (before,)


def test_of_two_that_could_both_be_leased_the_older_is_served() -> None:
    # A network whose SubnetLen was changed: what was leased before goes on as long as nothing overlaps.
    left = [lease(f"10.5.2.{base}/26", f"198.18.1.{10 + base}", created=1) for base in (0, 64, 128)]
    assert set(judged(*left).served) == set(left)
    new = lease("10.5.3.0/24", "198.18.1.4", created=9)
    found = judged(new, *left, lease("10.5.3.0/25", "198.18.1.5", created=2))
    assert set(found.served) == {new, *left}


def test_where_one_route_leads_all_into_the_overlay_no_host_is_inside_it() -> None:
    inside = lease("10.5.9.0/24", "10.5.200.7")
    assert judged(inside).served == (inside,)
    found = judged(inside, one_route=True)
    assert "inside the network 10.5.0.0/16, which is routed into the overlay" in found.problems[inside.key_name]


def test_one_host_has_a_few_leases_and_not_any_number() -> None:
    many = [lease(f"10.5.{number}.0/24", "198.18.1.9", created=number) for number in range(10, 60)]
    found = judged(GOOD, *many)
    assert found.served == (GOOD, *many[:LEASES_OF_A_HOST_AT_MOST])
    assert "198.18.1.9 has more than 16 leases" in found.problems[many[-1].key_name]


@pytest.mark.parametrize("kind", ["vxlan", "wireguard"])
def test_nobody_is_put_out_by_whoever_claims_the_same_key_or_mac(kind: str) -> None:
    data: dict[str, Any] = {"VNI": 1, "VtepMAC": vtep_mac(IPv4Address("198.18.1.9"), 1), "PublicKey": "B" * 42 + "A="}
    backend: Any = Scene(kind=kind).backend()
    own = Scene(kind=kind).own_lease()
    good = Lease(v4=family_lease("10.5.9.0/24", "198.18.1.9", data), backend_type=kind, created=3)
    # Its key comes first.
    bad = Lease(v4=family_lease("10.5.2.0/24", "198.18.1.66", data), backend_type=kind, created=4)
    for order in ([good, bad], [bad, good]):
        plan = backend.plan(own, order)
        assert list(plan.paths) == [good.key_name]
        assert "is also that of 198.18.1.9" in plan.problems[bad.key_name]


def family_lease(subnet: str, address: str, data: dict[str, Any]) -> FamilyLease:
    return FamilyLease(subnet=IPv4Network(subnet), public_ip=IPv4Address(address), data=data)


def test_of_very_many_leases_so_many_are_served_and_the_rest_is_a_number() -> None:
    many = [
        lease(f"10.{number >> 8}.{number & 255}.0/24", f"198.{18 + (number >> 16)}.{number >> 8}.{number & 255}")
        for number in range(0x600, 0x600 + PEERS_AT_MOST + 500)
        if number & 255 not in (0, 255)
    ]
    many = [replace(one, created=number) for number, one in enumerate(many, 100)]
    found = judged(*many, GOOD, network=WIDE)
    assert len(found.served) == min(PEERS_AT_MOST, len(many) + 1)
    assert found.served[0] == GOOD
    assert len(found.problems) + found.unlisted == len(many) + 1 - len(found.served)


HOSTILE = {
    "outside": lambda n: lease(f"11.{n >> 8 & 255}.{n & 255}.0/24", "198.18.1.9"),
    "another backend": lambda n: replace(lease(f"10.{n >> 12}.{n >> 4 & 255}.0/24", "198.18.1.9"), backend_type="udp"),
    "inside the good one": lambda n: lease(f"10.5.{2 + n % 2}.{n & 252}/30", f"198.19.{n >> 8 & 255}.{n & 255}"),
    "nested": lambda n: lease(str(IPv4Network((0x0A060000 + (n << 4), 9 + n % 22), strict=False)), "198.18.1.9"),
    "etcd's": lambda n: lease(f"10.5.77.{n & 252}/30", "198.18.1.9"),
    "of one host": lambda n: lease(f"10.{n >> 8 & 255}.{n & 255}.0/24", "198.18.1.9"),
}


@pytest.mark.needs("three seconds of processor each")
@pytest.mark.parametrize("what", list(HOSTILE))
def test_a_hundred_thousand_bad_leases_are_refused_in_a_moment(what: str, record_property: Any) -> None:
    good = [GOOD, lease("10.5.3.0/24", "198.18.1.3", created=6)]
    bad = [replace(HOSTILE[what](number), created=100 + number) for number in range(99_998)]
    environment = Environment(
        network=WIDE, underlay=Scene(kind="host-gw").environment().underlay, here=CurrentNeeds(needed=NEEDED)
    )
    backend: Any = backends.load("host-gw").from_config({}, environment)
    peers = [*bad[:50_000], *good, *bad[50_000:]]
    backend.plan(OWN, peers)  # what is kept with each lease is there from then on
    began = time.process_time()
    plan = backend.plan(OWN, peers)
    diff(plan.state(), KernelState())
    took = time.process_time() - began
    record_property(f"plan of 100,000 leases, {what}", f"{took:.2f} s")
    assert {one.key_name for one in good} <= plan.paths.keys()
    assert len(plan.problems) <= PROBLEMS_AT_MOST
    # 0.3 s on a quiet machine; anything quadratic takes minutes.
    assert took < 2, f"{took:.2f} s"


@st.composite
def hostile(draw: st.DrawFn) -> Lease:
    """Any subnet and address near those that matter."""
    near = ("10.5.2.0", "10.5.1.0", "10.5.77.0", "10.5.80.0", "10.5.0.0", "198.18.1.0", "0.0.0.0")
    base = int(IPv4Address(draw(st.sampled_from(near)))) + draw(st.integers(0, 1023))
    subnet = IPv4Network((base, draw(st.integers(0, 32))), strict=False)
    address = draw(st.sampled_from([subnet[0], subnet[-1], IPv4Address("198.18.1.2")]) | st.ip_addresses(v=4))
    other = FamilyLease(
        subnet=IPv6Network((0xFD42 << 112, draw(st.integers(0, 128))), strict=False),
        public_ip=IPv6Address("2001:db8:1::9"),
    )
    return Lease(
        v4=FamilyLease(subnet=subnet, public_ip=IPv4Address(int(address))),
        v6=other if draw(st.booleans()) else None,
        backend_type="host-gw",
        created=draw(st.integers(6, 9)),
    )


@given(st.lists(hostile(), max_size=12), st.booleans(), st.data())
@settings(max_examples=300)
def test_whatever_others_write_the_good_peers_are_served_and_nothing_else_is_taken(
    bad: list[Lease], one_route: bool, data: st.DataObject
) -> None:
    """The good are older; the bad are anything."""
    good = [GOOD, lease("10.5.3.0/24", "198.18.1.3", created=5)]
    bad = list({one.key_name: one for one in bad if one.key_name not in {peer.key_name for peer in good}}.values())
    found = judged(*data.draw(st.permutations([*bad, *good])), one_route=one_route)
    assert set(good) <= set(found.served)
    assert found.problems.keys() | {one.key_name for one in found.served} == {one.key_name for one in (*bad, *good)}
    assert judged(*bad, *good, one_route=one_route) == found
    assert_disjoint(found.served)
    for peer in found.served:
        assert peer.v4 is not None
        assert not overlaps(peer.v4.subnet, OWN.family_leases[0].subnet)
        assert not any(overlaps(peer.v4.subnet, one.network) for one in NEEDED), peer
        assert not any(contains(other.family_leases[0].subnet, peer.public_ip) for other in (*found.served, OWN)), peer


def assert_disjoint(served: Sequence[Lease]) -> None:
    """No two have an address in common."""
    for number, one in enumerate(served):
        for other in served[number + 1 :]:
            assert not overlaps(one.family_leases[0].subnet, other.family_leases[0].subnet), (one, other)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=8),
    st.tuples(st.integers(0, 60), st.integers(0, 9)),
)
def test_the_index_says_what_counting_says(
    given_first: list[tuple[int, int]], added: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    index = Index((first, first + length) for first, length in given_first)
    numbers = {one for first, length in given_first for one in range(first, first + length + 1)}
    for first, length in added:
        if index.overlap(first, first + length) is None:
            index.add(first, first + length)
            numbers |= set(range(first, first + length + 1))
    first, length = asked
    assert (index.overlap(first, first + length) is not None) == bool(numbers & set(range(first, first + length + 1)))

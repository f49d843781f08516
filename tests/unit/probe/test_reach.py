"""What echoes came to, made into what a status says of a peer."""

from __future__ import annotations

import math
from ipaddress import ip_address, ip_network

import pytest

from overlayd.monitoring.state import FAILING, HOST_ONLY, HOST_SILENT, NO_CONTAINER, NOT_ASKED, REACHED
from overlayd.probe.peers import KnownPeer, first_containers
from overlayd.probe.reach import (
    HEARD_S,
    INTERVAL_S,
    MISSES,
    RETRY_S,
    Diagnosis,
    PathState,
    interval_s,
    last_hop,
    most_fail,
    parse_note,
    problems,
)

PEER = KnownPeer(subnet=ip_network("10.5.3.0/24"), public_ip=ip_address("198.18.1.3"), backend="vxlan")
CONTAINER, OTHER = ip_address("10.5.3.2"), ip_address("10.5.3.9")
EVERY = INTERVAL_S


def path(peer: KnownPeer = PEER) -> PathState:
    return PathState(peer=peer, due=0.0)


def lose(one: PathState, count: int = MISSES, *, now: float = 100.0) -> None:
    for at in range(count):
        one.missed(now=now + at * RETRY_S, clock=1000.0 + at, interval_s=EVERY)


def test_a_container_that_answers_is_asked_again_in_an_interval() -> None:
    one = path()
    assert one.shown.state == NOT_ASKED
    one.answered(CONTAINER, rtt_s=0.0005, now=100, clock=1000, interval_s=EVERY)
    assert (one.shown.state, one.shown.rtt_ms, one.shown.reached_at_s) == (REACHED, 0.5, 1000)
    assert (one.due, one.next_target) == (100 + EVERY, CONTAINER)


def test_a_lost_echo_is_sent_again_at_once_and_is_no_failure_yet() -> None:
    one = path()
    one.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    lose(one, 1)
    assert (one.due, one.wants_diagnosis, one.shown.state, one.shown.lost) == (100 + RETRY_S, False, REACHED, 1)
    assert one.shown.reached_at_s == 990


def test_a_known_container_that_is_silent_fails_where_its_host_lives() -> None:
    one = path()
    one.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    lose(one)
    wanted_before = one.wants_diagnosis
    one.diagnosed(Diagnosis(host=True, underlay=True, lives=True, last_hop="10.5.3.0 (hop 2)"), now=110)
    assert (one.shown.state, one.shown.lost, one.shown.failing_since_s) == (FAILING, MISSES, 1000)
    said = one.shown.problem or ""
    assert "10.5.3.2 of 198.18.1.3 does not answer" in said
    assert "its host does" in said
    assert said.endswith("the last hop that answered: 10.5.3.0 (hop 2)")
    assert (wanted_before, one.wants_diagnosis) == (True, False)
    one.answered(CONTAINER, rtt_s=0.001, now=120, clock=1020, interval_s=EVERY)
    assert (one.shown.state, one.shown.problem, one.shown.lost) == (REACHED, None, 0)


@pytest.mark.parametrize(
    ("backend", "diagnosis", "state"),
    [
        ("vxlan", Diagnosis(host=True, underlay=True), HOST_ONLY),
        ("vxlan", Diagnosis(host=False, underlay=True), FAILING),
        # host-gw has no device that answers, and docker may not have started there.
        ("host-gw", Diagnosis(host=False, underlay=True), HOST_SILENT),
        ("host-gw", Diagnosis(host=False, underlay=False, lives=True), FAILING),
        ("vxlan", Diagnosis(host=False, underlay=False, lives=False), HOST_SILENT),
        ("vxlan", Diagnosis(host=False, underlay=False, lives=None), HOST_SILENT),
    ],
)
def test_of_a_peer_without_a_known_container_its_host_is_judged(backend: str, diagnosis: Diagnosis, state: str) -> None:
    one = path(KnownPeer(subnet=PEER.subnet, public_ip=PEER.public_ip, backend=backend))
    lose(one)
    one.diagnosed(diagnosis, now=110)
    assert one.shown.state == state
    assert (one.shown.problem is None) == (state != FAILING)


def test_a_host_that_was_switched_off_is_no_failure_of_this_one() -> None:
    one = path()
    one.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    lose(one)
    one.diagnosed(Diagnosis(host=False, underlay=False, lives=False), now=110)
    assert (one.shown.state, problems([one]), most_fail([one])) == (HOST_SILENT, (), False)


def test_nobody_there_is_said_by_the_peers_bridge_and_the_next_address_tried() -> None:
    one = path()
    tried = []
    for at in range(10):
        tried.append(one.next_target)
        one.on_empty(ip_address("10.5.3.1"), now=100.0 + at, interval_s=EVERY)
    assert one.shown.state == NO_CONTAINER
    assert tuple(tried[:8]) == first_containers(PEER.subnet)
    assert tried[8:] == [CONTAINER, tried[1]]


def test_a_container_that_went_is_looked_for_from_the_first_address_on() -> None:
    one = path()
    one.answered(OTHER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    one.on_empty(ip_address("10.5.3.1"), now=100, interval_s=EVERY)
    assert (one.next_target, one.known) == (CONTAINER, False)


def test_a_prober_that_is_heard_tells_where_its_container_is() -> None:
    one = path()
    one.on_request(OTHER, path().note(5.0), now=5.0)
    assert (one.next_target, one.known) == (OTHER, True)


@pytest.mark.parametrize("own", ["10.5.3.0", "10.5.3.1"])
def test_a_host_that_asks_by_itself_is_no_container(own: str) -> None:
    one = path()
    one.on_request(ip_address(own), path().note(5.0), now=5.0)
    one.on_published(ip_address(own))
    assert (one.next_target, one.known) == (CONTAINER, False)
    # It was heard all the same.
    assert parse_note(one.note(9.0)) == 4


def test_its_host_tells_too_but_only_of_its_own_subnet() -> None:
    one = path()
    one.on_published(ip_address("10.5.4.2"))
    assert not one.known
    one.on_published(OTHER)
    assert (one.next_target, one.known) == (OTHER, True)


def test_where_one_fails_that_its_host_does_not_send_from_any_more_the_other_is_asked() -> None:
    one = path()
    one.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    one.on_request(OTHER, path().note(0.0), now=91)
    assert one.next_target == CONTAINER
    lose(one)
    one.diagnosed(Diagnosis(host=True), now=110)
    one.on_request(OTHER, path().note(0.0), now=111)
    assert (one.next_target, one.known, one.shown.state) == (OTHER, True, FAILING)
    assert one.due <= 111 + RETRY_S


def test_a_note_says_how_long_ago_the_other_was_heard() -> None:
    one = path()
    assert parse_note(one.note(50.0)) == math.inf
    one.on_request(OTHER, path().note(0.0), now=50.0)
    assert parse_note(one.note(57.0)) == 7
    for foreign in (b"", b"ovl", b"\0" * 16, b"ping" * 8):
        assert parse_note(foreign) is None


def failing(heard_at: float | None, heard_us_before_s: float) -> str:
    """What is said of a path whose echoes are lost from 100 on, at 130."""
    one = path()
    one.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    lose(one)
    if heard_at is not None:
        other = path()
        other.on_request(CONTAINER, path().note(0.0), now=heard_at - heard_us_before_s)
        one.on_request(CONTAINER, other.note(heard_at), now=heard_at)
    one.diagnosed(Diagnosis(host=True), now=130)
    return one.shown.problem or ""


def test_the_direction_that_fails_is_told_by_what_the_peers_prober_says() -> None:
    assert "its requests arrive here, ours do not arrive there" in failing(125, 40)
    assert "requests arrive in both directions, answers are lost" in failing(125, 3)
    assert "nothing arrives from there any more" in failing(95, 3)
    assert "arrive" not in failing(None, 0)
    # Long ago it says nothing.
    assert "arrive" not in failing(130 - HEARD_S - 1, 3)


def peer_path(number: int, *, version: int = 4) -> PathState:
    """The path to one of several peers, each of which is known by its IPv4 address."""
    address, subnet = ip_address(f"198.18.1.{number}"), ip_network(f"10.5.{number}.0/24")
    if version == 4:
        return path(KnownPeer(subnet=subnet, public_ip=address, backend="vxlan", host=address))
    subnet, public_ip = ip_network(f"fd00:5:{number}::/64"), ip_address(f"2001:2::{number}")
    return path(KnownPeer(subnet=subnet, public_ip=public_ip, backend="vxlan", host=address))


def test_half_of_all_peers_or_more_make_a_host_unready_and_one_broken_peer_does_not() -> None:
    good, bad, off = peer_path(3), peer_path(4), peer_path(5)
    good.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    for one, diagnosis in ((bad, Diagnosis(host=False, underlay=True)), (off, Diagnosis(host=False, underlay=False))):
        lose(one)
        one.diagnosed(diagnosis, now=110)
    assert most_fail([bad, off])
    assert most_fail([good, bad, off, off])
    better = peer_path(6)
    better.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    assert not most_fail([good, better, bad])
    assert not most_fail([off, off])
    assert not most_fail([])


def test_a_peer_with_both_ip_versions_counts_once_and_one_path_of_it_that_fails_is_enough() -> None:
    good, good6, bad, bad6 = (peer_path(number, version=version) for number in (3, 4) for version in (4, 6))
    for one in (good, good6, bad6):
        one.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    bad.on_published(ip_address("10.5.4.2"))
    lose(bad)
    bad.diagnosed(Diagnosis(host=True, underlay=True), now=110)
    # One of four paths, but one of two peers.
    assert most_fail([good, good6, bad, bad6])
    third = peer_path(5)
    third.answered(CONTAINER, rtt_s=0.001, now=90, clock=990, interval_s=EVERY)
    assert not most_fail([good, good6, bad, bad6, third])


def test_of_many_failures_a_few_are_named_and_the_rest_counted() -> None:
    many = []
    for _ in range(9):
        one = path()
        lose(one)
        one.diagnosed(Diagnosis(host=False, underlay=True), now=110)
        many.append(one)
    assert len(problems(many)) == 4
    assert problems(many)[-1] == "and 6 more peers"


@pytest.mark.parametrize(("count", "rate", "every"), [(1, 5, 10), (50, 5, 10), (5000, 5, 1000), (5000, 100, 50)])
def test_a_budget_is_kept_however_many_peers_there_are(count: int, rate: float, every: float) -> None:
    assert interval_s(count, rate) == every


def test_the_last_hop_is_the_farthest_that_answered() -> None:
    first, second = ip_address("10.5.1.1"), ip_address("10.5.3.0")
    assert last_hop([first, second, None]) == "10.5.3.0 (hop 2)"
    assert last_hop([None, None, None]) is None


@pytest.mark.parametrize(("subnet", "count"), [("10.5.3.0/24", 8), ("10.5.3.0/30", 1), ("fd00:5:3::/64", 8)])
def test_the_first_addresses_that_docker_gives_are_tried(subnet: str, count: int) -> None:
    found = first_containers(ip_network(subnet))
    assert (len(found), found[0]) == (count, ip_network(subnet)[2])

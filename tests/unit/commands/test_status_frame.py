"""The screen of `overlayd status --watch`, and what counts as a change."""

from __future__ import annotations

import dataclasses

import pytest

from overlayd.commands.status_frame import Facts, Look, changes, facts, frame, remembered
from overlayd.monitoring.state import Peer, Reach, Status

NOW_S = 1_790_000_100.0


def peer(number: int, *, problem: str | None = None) -> Peer:
    return Peer(
        subnet=f"10.{number // 250}.{number % 250}.0/24",
        public_ip=f"198.18.{number // 250}.{number % 250}",
        backend="vxlan",
        path=None if problem else "overlay.1",
        problem=problem,
    )


def way(of: Peer, state: str, *, since_s: float | None = None) -> Reach:
    last = NOW_S - 3 if state == "reached" else None
    assert of.subnet
    assert of.public_ip
    return Reach(
        subnet=of.subnet,
        public_ip=of.public_ip,
        state=state,
        reached_at_s=last,
        failing_since_s=since_s,
        rtt_ms=0.4 if last else None,
    )


def status(*peers: tuple[Peer, str]) -> Status:
    return Status(
        state="ready",
        pid=7,
        version="1.2.3",
        started_at_s=NOW_S - 3600,
        network="10.0.0.0/8",
        subnet="10.200.1.0/24",
        backend="vxlan",
        mtu_bytes=1450,
        ifname="eth0",
        ifname_reason="the default route",
        public_ip="198.19.0.1",
        etcd_endpoints=("http://198.18.1.254:2379",),
        etcd_connected=True,
        etcd_revision=9,
        firewall="iptables",
        probed_from="10.200.1.2",
        peers=tuple(one for one, _state in peers),
        reach=tuple(way(one, state, since_s=NOW_S - 60 if state == "failing" else None) for one, state in peers),
    )


def shown(
    of: Status | None, *history: str, width: int = 120, height: int = 30, problem: str | None = None
) -> list[str]:
    look = Look(at_s=NOW_S, status=of, problem=problem)
    return [text for _style, text in frame(look, history, width=width, height=height, interval_s=2)]


WELL = status((peer(1), "reached"), (peer(2), "reached"))


def test_a_host_in_order_is_one_screen_with_its_peers() -> None:
    lines = shown(WELL)
    assert lines[0].startswith("overlayd 1.2.3 is ready ")
    assert lines[0].endswith("every 2 s, q quits")
    assert len(lines[0]) == 120
    assert "  subnet         10.200.1.0/24 of 10.0.0.0/8" in lines
    assert "peers: 2 (2 reached)" in lines
    assert lines[-1] == "  10.0.2.0/24  198.18.0.2      overlay.1  reached 3 s ago, 0.40 ms  none"


def test_a_peer_that_is_not_reached_has_its_reason_beside_it() -> None:
    lost = way(peer(1), "failing", since_s=NOW_S - 60)
    of = dataclasses.replace(WELL, reach=(dataclasses.replace(lost, problem="nothing arrives"), WELL.reach[1]))
    lines = shown(of)
    assert lines[-2] == "  10.0.1.0/24  198.18.0.1      overlay.1  NOT REACHED for 1 min     nothing arrives"


def test_of_five_thousand_peers_the_worst_are_first_and_the_rest_is_counted() -> None:
    states = {17: "failing", 4321: "failing", 99: "host silent", 250: "no container"}
    peers = [(peer(number), states.get(number, "reached")) for number in range(5000)]
    peers[40] = (peer(40, problem="its backend is udp, ours is vxlan"), "reached")
    of = status(*peers)
    older = dataclasses.replace(of.reach[4321], failing_since_s=NOW_S - 600)
    lines = shown(dataclasses.replace(of, reach=(*of.reach[:4321], older, *of.reach[4322:])))
    assert len(lines) <= 30
    at = next(number for number, line in enumerate(lines) if line.startswith("peers: "))
    assert lines[at] == ("peers: 5,000 (1 not programmed, 2 failing, 1 host silent, 1 no container, 4,995 reached)")
    subnets = [line.split()[0] for line in lines[at + 2 : at + 8]]
    assert subnets == ["10.0.40.0/24", "10.17.71.0/24", "10.0.17.0/24", "10.0.99.0/24", "10.1.0.0/24", "10.0.0.0/24"]
    rest = 5000 - (len(lines) - at - 3)
    assert lines[-1] == f"  and {rest:,} more: {rest:,} reached"


@pytest.mark.parametrize(("width", "height"), [(120, 24), (80, 24), (80, 12), (40, 6), (20, 3), (1, 1)])
def test_a_screen_of_any_size_has_no_more_lines_than_it_holds(width: int, height: int) -> None:
    many = status(*((peer(number), "failing" if number % 2 else "reached") for number in range(60)))
    bad = dataclasses.replace(many, etcd_connected=False, warnings=("open",) * 9, unreached_most=True, unreached=("x",))
    history = [f"12:00:{number:02}  peer {number}" for number in range(40)]
    for of in (many, bad, None):
        lines = shown(of, *history, width=width, height=height, problem="no daemon has run on this host")
        assert 1 <= len(lines) <= height
    # What is wrong stands above everything else.
    assert shown(bad, *history, width=width, height=height)[:3][1:2] in ([], ["not in order"])


def test_without_a_status_it_says_why_and_keeps_the_history() -> None:
    lines = shown(None, "12:00:00  etcd: ok, was away", problem="no daemon has run on this host")
    assert lines[0].startswith("overlayd has no status ")
    assert "no daemon has run on this host" in lines
    assert lines[-1] == "  12:00:00  etcd: ok, was away"


def test_times_and_counts_are_no_change() -> None:
    later = dataclasses.replace(
        WELL,
        etcd_revision=12,
        reach=tuple(dataclasses.replace(one, reached_at_s=NOW_S, rtt_ms=7.0, lost=1) for one in WELL.reach),
    )
    assert facts(Look(at_s=1, status=WELL)) == facts(Look(at_s=2, status=later))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"etcd_connected": False, "etcd_problem": "UNAVAILABLE"}, "etcd: UNAVAILABLE, was ok"),
        ({"state": "dead"}, "overlayd: dead, was ready"),
        ({"pid": 8}, "process: 8, was 7"),
        ({"subnet": "10.200.9.0/24"}, "subnet: 10.200.9.0/24, was 10.200.1.0/24"),
        ({"warnings": ("etcd is open",)}, "warning: etcd is open: given, new"),
        ({"peers": (peer(1),)}, "peer 10.0.2.0/24 at 198.18.0.2 is gone"),
        (
            {"reach": (way(peer(1), "failing", since_s=1.0), way(peer(2), "reached"))},
            "peer 10.0.1.0/24 at 198.18.0.1: failing, was reached",
        ),
    ],
)
def test_what_changed_is_said_in_a_line(change: dict[str, object], line: str) -> None:
    after = dataclasses.replace(WELL, **change)  # type: ignore[arg-type]
    found = changes(facts(Look(at_s=1, status=WELL)), facts(Look(at_s=2, status=after)), clock="12:00:00")
    assert f"12:00:00  {line}" in found


def test_a_restart_is_what_changed_and_not_that_it_knew_nothing_meanwhile() -> None:
    looks = [
        Look(at_s=1, status=WELL),
        Look(at_s=2, status=dataclasses.replace(WELL, state="dead")),
        Look(at_s=3, problem="no daemon has run"),
        Look(at_s=4, status=Status(state="starting", pid=8, version="1.2.3")),
        Look(at_s=5, status=dataclasses.replace(WELL, pid=8, subnet="10.200.9.0/24")),
    ]
    before: Facts = {}
    lines: list[str] = []
    for look in looks:
        lines += changes(before, facts(look), clock=f"{look.at_s:g}")
        before = remembered(before, facts(look))
    assert lines == [
        "2  overlayd: dead, was ready",
        *("2  daemon: dead, was ok", "2  data-path: not looked after: the daemon is dead, was ok"),
        "3  overlayd: no daemon has run, was dead",
        *("4  overlayd: starting, was no daemon has run", "4  process: 8, was 7"),
        "5  overlayd: ready, was starting",
        *("5  daemon: ok, was dead", "5  data-path: ok, was not looked after: the daemon is dead"),
        "5  subnet: 10.200.9.0/24, was 10.200.1.0/24",
    ]


def test_changes_take_the_room_that_few_peers_leave() -> None:
    history = [f"12:00:{number:02}  peer {number}" for number in range(40)]
    few = shown(WELL, *history, height=40)
    assert len(few) == 40
    assert few[-1].endswith("peer 39")
    assert any(line.startswith("  10.0.2.0/24") for line in few)
    many = shown(status(*((peer(number), "reached") for number in range(100))), *history, height=40)
    assert len(many) == 40
    assert sum(line.startswith("  10.0.") for line in many) > sum("  peer " in line for line in many) > 3


def test_thousands_of_peers_that_change_at_once_are_one_line() -> None:
    before = status(*((peer(number), "not asked yet") for number in range(5000)))
    after = status(*((peer(number), "reached") for number in range(5000)))
    found = changes(facts(Look(at_s=1, status=before)), facts(Look(at_s=2, status=after)), clock="12:00:00")
    assert found == ["12:00:00  5000 peers changed"]

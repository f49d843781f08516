"""The output of ping and iperf3 is read."""

from __future__ import annotations

import json

import pytest

from tests.testbed.cluster.figures import HostPair, NotAFigure, Ping, Spread, as_document, parse_iperf3, parse_ping

PING = """\
PING 10.42.130.2 (10.42.130.2) 56(84) bytes of data.

--- 10.42.130.2 ping statistics ---
5 packets transmitted, 4 received, 20% packet loss, time 30ms
rtt min/avg/max/mdev = 0.188/0.315/0.560/0.173 ms
"""
ALL_LOST = """\
--- 10.42.130.2 ping statistics ---
2 packets transmitted, 0 received, 100% packet loss, time 1029ms

"""
BUSYBOX = """\
3 packets transmitted, 3 packets received, 0% packet loss
round-trip min/avg/max = 0.061/0.070/0.082 ms
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PING, Ping(sent=5, received=4, average_ms=0.315, maximum_ms=0.560)),
        (ALL_LOST, Ping(sent=2, received=0, average_ms=None, maximum_ms=None)),
        (BUSYBOX, Ping(sent=3, received=3, average_ms=0.070, maximum_ms=0.082)),
    ],
    ids=["some lost", "all lost", "busybox"],
)
def test_ping_is_read(text: str, expected: Ping) -> None:
    assert parse_ping(text) == expected


def test_ping_that_did_not_run_is_quoted() -> None:
    with pytest.raises(NotAFigure, match="unknown host"):
        parse_ping("ping: unknown host nowhere")


def test_iperf3_counts_what_arrived() -> None:
    document = {"end": {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {"bits_per_second": 7.5e9}}}
    assert parse_iperf3(json.dumps(document)) == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"start": {}, "error": "unable to connect to server"}', "unable to connect"),
        ("iperf3: not found", "not found"),
        ('{"end": {}}', "no result"),
        ("", "no result"),
    ],
)
def test_iperf3_that_failed_is_quoted(text: str, expected: str) -> None:
    with pytest.raises(NotAFigure, match=expected):
        parse_iperf3(text)


def test_pair_says_what_part_of_the_underlay_it_reached() -> None:
    ping = Ping(sent=1, received=1, average_ms=0.2, maximum_ms=0.2)
    pair = HostPair(source="a", target="b", ping=ping, gbit_s=3.0, underlay_ping=ping, underlay_gbit_s=4.0)
    assert as_document([pair])[0]["ratio"] == pytest.approx(0.75)


def test_spread_keeps_middle_and_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, lowest=1.0, highest=3.0, count=3)

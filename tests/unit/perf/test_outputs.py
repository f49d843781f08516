"""What programs print and the kernel counts becomes a figure, or an error that quotes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.perf import outputs
from tests.perf.daemon_cost import first_reply_s
from tests.perf.measuring import figures
from tests.testbed.cluster.figures import NotAFigure

# As sockperf 3.7 prints them, colours included.
THROUGHPUT = (
    "sockperf: Total of 464592 messages sent in 2.000 sec\n\nsockperf: Summary: Message Rate is 232242 [msg/sec]\n"
)
PING_PONG = (
    "sockperf: \x1b[2;35m====> avg-rtt=15.362 (std-dev=10.213)\x1b[0m\n"
    "sockperf: ---> percentile 75.000 =   14.521\nsockperf: ---> percentile 50.000 =   14.020\n"
)
SNMP = "Udp: InDatagrams NoPorts InErrors\nUdp: 457501 0 7091\nUdpLite: InDatagrams\nUdpLite: 3\n"
STAT = "cpu  100 20 300 9000 50 6 7 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"
SMAPS = "00400000-7ffd rw-p 0 [rollup]\nPss:  100 kB\nPss_Anon:  90 kB\nPrivate_Clean: 3 kB\nPrivate_Dirty: 4 kB\n"


def test_sockperf_is_read() -> None:
    assert outputs.sent_in_s(THROUGHPUT) == (464592, 2.0)
    assert outputs.round_trip_us(PING_PONG) == 14.02


def test_counters_are_read_by_name() -> None:
    assert outputs.snmp(SNMP, "Udp", "InDatagrams") == 457501
    assert outputs.snmp(SNMP, "Udp", "InErrors") == 7091


def test_idle_waiting_and_stolen_ticks_are_not_work() -> None:
    assert outputs.busy_ticks(STAT) == 100 + 20 + 300 + 6 + 7


def test_a_process_name_with_spaces_and_brackets_does_not_shift_its_ticks() -> None:
    fields = "S 1 1 1 0 -1 4194304 100 0 0 0 11 22 0 0 20 0 5 0"
    assert outputs.process_ticks(f"128 (a) (b c) {fields}") == 33


def test_private_memory_is_clean_and_dirty() -> None:
    assert outputs.memory_bytes(SMAPS) == (100 << 10, 7 << 10)


@pytest.mark.parametrize(
    "read",
    [
        outputs.sent_in_s,
        outputs.round_trip_us,
        outputs.busy_ticks,
        outputs.process_ticks,
        outputs.memory_bytes,
        lambda text: outputs.snmp(text, "Udp", "InDatagrams"),
        lambda text: first_reply_s(text, 0.0),
    ],
)
def test_what_is_no_figure_is_said(read: Callable[[str], object]) -> None:
    with pytest.raises(NotAFigure):
        read("sockperf: ERROR: Can't connect socket\n")


def test_the_first_reply_counts_from_the_lease() -> None:
    text = (
        "From 10.5.1.1 icmp_seq=1 Destination Net Unreachable\n"
        "[1000.250000] 64 bytes from 10.5.2.2: icmp_seq=9 ttl=62 time=0.1 ms\n"
        "[1000.252000] 64 bytes from 10.5.2.2: icmp_seq=10 ttl=62 time=0.1 ms\n"
    )
    assert first_reply_s(text, 1000.0) == 0.25
    with pytest.raises(NotAFigure, match="before the lease"):
        first_reply_s(text, 1000.3)


def test_each_turn_is_compared_with_the_underlay_of_the_same_turn() -> None:
    values, bare = ([{"tcp_1_flow_gbit_s": one} for one in both] for both in ((1.0, 8.0), (2.0, 8.0)))
    part = figures(values, bare)["tcp_1_flow_gbit_s"]["part"]
    assert part == {"median": 0.75, "lowest": 0.5, "highest": 1.0, "count": 2}


def test_of_a_figure_that_failed_in_one_turn_the_others_count() -> None:
    bare = [{"tcp_1_flow_gbit_s": 2.0}] * 2
    found = figures([{"tcp_1_flow_gbit_s": "reset"}, {"tcp_1_flow_gbit_s": 1.0}], bare)
    assert found["tcp_1_flow_gbit_s"]["part"]["count"] == 1
    found = figures([{"tcp_1_flow_gbit_s": "reset"}] * 2, bare)
    assert found["tcp_1_flow_gbit_s"] == {"reason": "reset"}

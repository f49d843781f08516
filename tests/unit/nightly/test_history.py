"""A night is compared with those before it: since when a test fails, what is usual, what fell."""

from __future__ import annotations

import pytest

from tests.nightly import history
from tests.unit.nightly.made import older

TEST = "tests/a.py::test_b"


def test_a_test_fails_since_the_first_night_without_a_pass_between() -> None:
    nights = [older(5, TEST), older(4), older(3, TEST), older(2, TEST), older(1, TEST)]
    found = history.failing(TEST, nights)
    assert (found.since, found.nights) == (older(3).when, 4)
    assert (found.failed, found.seen) == (4, 5)


def test_a_night_that_did_not_run_all_tests_tells_nothing_of_those_that_it_did_not_run() -> None:
    nights = [older(3, TEST), older(2, complete=False), older(1, complete=False)]
    found = history.failing(TEST, nights)
    assert (found.since, found.nights, found.seen) == (older(3).when, 2, 1)


def test_a_failure_without_one_before_is_new() -> None:
    assert history.failing(TEST, [older(2, TEST), older(1)]).since is None
    assert history.failing(TEST, []).since is None


def test_what_failed_the_night_before_and_not_now_is_mended() -> None:
    nights = [older(3, TEST, "tests/c.py::test_d"), older(2, complete=False)]
    assert history.mended(older(0, "tests/c.py::test_d"), nights) == [TEST]
    assert history.mended(older(0, complete=False), nights) == []
    assert history.mended(older(0), []) == []


def test_usual_is_the_median_of_the_last_ten_nights_that_have_a_value() -> None:
    assert history.usual([100.0, None, *range(1, 11)]) == 5.5
    assert history.usual([None]) is None


@pytest.mark.parametrize(
    ("name", "value", "before", "worse"),
    [
        ("vxlan · tcp_gbit_s", 0.79, 1.0, True),
        ("vxlan · tcp_gbit_s", 0.81, 1.0, False),
        ("vxlan · tcp_gbit_s", 2.0, 1.0, False),
        ("vxlan · connections_per_s", 0.5, 1.0, True),
        ("vxlan", 0.1, None, False),
        ("vxlan", 0.1, 0.0, False),
        ("vxlan · tcp_round_trip_us", 1.3, 1.0, True),
        ("vxlan · tcp_round_trip_us", 0.5, 1.0, False),
        ("vxlan · cpu_s_per_gbit", 1.3, 1.0, True),
        ("daemon · start_to_ready_s", 1.3, 1.0, True),
    ],
)
def test_more_than_a_fifth_worse_is_worse(name: str, value: float, before: float | None, worse: bool) -> None:
    assert history.worse(name, value, before) is worse


def test_slower_is_more_than_noise() -> None:
    assert history.slower(20, 10)
    assert not history.slower(2, 1)
    assert not history.slower(110, 100)
    assert not history.slower(110, None)

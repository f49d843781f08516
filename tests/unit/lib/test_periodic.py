"""Threads that wait are ended at the same time."""

from __future__ import annotations

import threading

from overlayd.lib.periodic import all_at_once


def test_calls_are_made_at_the_same_time_and_all_are_waited_for() -> None:
    # None of them passes before all have come.
    barrier, passed = threading.Barrier(3, timeout=20), list[int]()

    def call() -> None:
        passed.append(barrier.wait())

    all_at_once(call, call, call)
    assert sorted(passed) == [0, 1, 2]

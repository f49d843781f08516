"""The pauses of the main loop, by clocks that stand still."""

from __future__ import annotations

import pytest

from overlayd.host.pacing import (
    CREDIT_S,
    FREE_LOSSES,
    LEAST_INTERVAL_S,
    LONGEST_LOSS_REST_S,
    MAIN_LOOP,
    Pacing,
    loss_rest_s,
    round_rest_s,
)
from overlayd.monitoring.liveness import Liveness


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now_s


def test_a_reconciliation_that_took_long_is_followed_by_a_longer_rest() -> None:
    assert [round_rest_s(cpu_s) for cpu_s in (0.0, 0.1, 1.0, 60.0)] == [0.5, 0.5, 3.0, 15.0]


def test_subnets_that_are_lost_again_and_again_make_longer_rests() -> None:
    assert [loss_rest_s(FREE_LOSSES + more) for more in (0, 1, 2, 3)] == [0.0, 10.0, 20.0, 40.0]
    assert loss_rest_s(1000) == LONGEST_LOSS_REST_S


def test_losses_count_for_an_hour() -> None:
    clock = Clock()
    liveness = Liveness(slack_s=0.0, clock=clock)
    pacing = Pacing(liveness, clock=clock)
    pacing.stop()  # No pause is waited for.
    for _ in range(FREE_LOSSES):
        pacing.after_loss()
    assert liveness.rounds() == {}
    pacing.after_loss()
    clock.now_s = 10.0
    assert liveness.rounds() == {MAIN_LOOP: None}
    clock.now_s = 10.1
    assert liveness.late() == ("main loop is stuck: not heard of for 10 s",)
    clock.now_s = 3700.0
    pacing.after_loss()
    # Not announced anew: there was no rest.
    assert liveness.late() == ("main loop is stuck: not heard of for 3700 s",)


def test_the_pause_until_the_resync_is_announced_with_its_rest() -> None:
    clock, cpu_clock = Clock(), Clock()
    liveness = Liveness(slack_s=0.0, clock=clock)
    pacing = Pacing(liveness, clock=clock, cpu_clock=cpu_clock)
    cpu_clock.now_s = 4.0
    pacing.stop()
    assert not pacing.until_due(10.0)
    # 12 s of rest, less the credit of 2.5 s.
    clock.now_s = 19.5
    assert liveness.late() == ()
    clock.now_s = 19.6
    assert liveness.late() != ()


def test_lone_changes_are_served_at_once_and_many_are_gathered() -> None:
    clock = Clock()
    pacing = Pacing(Liveness(slack_s=0.0, clock=clock), clock=clock, cpu_clock=lambda: 0.0)
    rests: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pacing, "pause", rests.append)

        def begins_after(change_s: float) -> float:
            """How long after a change, itself so long after the one before, its reconciliation begins."""
            rests.clear()
            pacing.wake()
            clock.now_s += change_s
            assert pacing.until_due(10.0)
            clock.now_s += sum(rests)
            return round(sum(rests), 3)

        at_once = int(CREDIT_S / LEAST_INTERVAL_S)
        assert [begins_after(10.0)] + [begins_after(0.0) for _ in range(at_once - 1)] == [0.0] * at_once
        # From here on no more than two a second.
        assert [begins_after(0.0) for _ in range(4)] == [LEAST_INTERVAL_S] * 4
        assert [begins_after(0.4) for _ in range(2)] == [0.1] * 2
        # After a while without any, a lone one is served at once again.
        assert [begins_after(10.0), begins_after(0.5), begins_after(0.5)] == [0.0] * 3


def test_a_change_ends_the_wait_for_a_first_answer() -> None:
    answers = iter([False, False, True])
    pacing = Pacing(Liveness())

    def answered() -> bool:
        pacing.wake()
        return next(answers)

    pacing.until_answered(answered)
    assert list(answers) == []

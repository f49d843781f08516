"""How often a lease is written again against somebody else who writes: a little, then less and less, then again."""

from __future__ import annotations

from overlayd.leases.contention import FREE_REWRITES, LONGEST_REST_S, WITHIN_S, Contention


def test_the_first_are_free_and_each_one_more_waits_twice_as_long() -> None:
    now = 0.0
    contention = Contention(clock=lambda: now)
    for _time in range(FREE_REWRITES):
        assert (contention.rest_s(), contention.is_on) == (0, False)
        contention.note()
    rests = []
    for _time in range(9):
        rests.append(contention.rest_s())
        now += rests[-1]
        assert contention.rest_s() == 0
        contention.note()
        assert contention.is_on
    assert rests == [2, 4, 8, 16, 32, 64, *[LONGEST_REST_S] * 3]
    now += WITHIN_S + 1
    assert (contention.rest_s(), contention.is_on) == (0, False)

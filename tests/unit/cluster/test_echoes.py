"""Of a ping that was interrupted, only echoes whose answers had time to come are lost."""

from __future__ import annotations

import pytest

from tests.testbed.echoes import parse_echoes


def ping(answered: list[int], sent: int) -> str:
    """What ping prints when it is interrupted."""
    lines = [f"64 bytes from 10.42.130.2: icmp_seq={number} ttl=62 time=0.2 ms" for number in answered]
    return "\n".join(["PING 10.42.130.2 (10.42.130.2) 56(84) bytes of data.", *lines, f"{sent} packets transmitted"])


@pytest.mark.parametrize(
    ("answered", "sent", "counted"),
    [
        ([1, 2, 3], 3, 3),
        # The fourth was sent 0.1 s before the end at most.
        ([1, 2, 3], 4, 3),
        ([1, 3], 4, 3),
        # The last five were sent over 0.5 s: the first of them had time.
        ([1, 2], 7, 7),
        ([], 10, 10),
        ([], 3, 0),
    ],
    ids=["all answered", "last under way", "one lost", "lost at the end", "all lost", "a short run"],
)
def test_echoes_whose_answers_may_be_on_their_way_do_not_count(answered: list[int], sent: int, counted: int) -> None:
    echoes = parse_echoes(ping(answered, sent), 0.1)
    assert (echoes.sent, echoes.answered) == (counted, frozenset(answered))


def test_an_answer_that_came_twice_counts_once() -> None:
    assert parse_echoes(ping([1, 1, 2], 2), 0.1).answered == frozenset({1, 2})


def test_a_ping_that_was_killed_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no summary"):
        parse_echoes("PING 10.42.130.2 (10.42.130.2) 56(84) bytes of data.\n", 0.1)

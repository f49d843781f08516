"""Log lines: so many of one event a minute, whatever others do."""

from __future__ import annotations

import logging

import pytest

from overlayd.lib import log
from overlayd.lib.log import LINES_A_MINUTE, RateLimit, logger


class Written(logging.Handler):
    """The lines that pass."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(log._Formatter(journald=True))
        self.addFilter(RateLimit(clock=lambda: clock[0]))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def written(clock: list[float]) -> Written:
    handler = Written(clock)
    target = logging.getLogger("overlayd.tried")
    target.handlers, target.propagate = [handler], False
    target.setLevel(logging.DEBUG)
    return handler


def test_an_event_is_written_so_often_a_minute_and_then_counted(written: Written, clock: list[float]) -> None:
    tried = logger("tried")
    for number in range(1000):
        tried.warning("not a lease, skipped", key=number)
    assert len(written.lines) == LINES_A_MINUTE
    tried.error("another event")
    assert written.lines[-1] == "<3>another event"
    clock[0] = 61.0
    tried.warning("not a lease, skipped", key="next")
    assert written.lines[-1] == f"<4>not a lease, skipped key=next left_out={1000 - LINES_A_MINUTE}"
    tried.warning("not a lease, skipped", key="next")
    assert "left_out" not in written.lines[-1]


def test_lines_for_whoever_looks_for_a_fault_are_all_written(written: Written) -> None:
    for _number in range(1000):
        logger("tried").debug("again")
    assert len(written.lines) == 1000


def test_events_that_are_never_the_same_cost_no_memory(written: Written) -> None:
    for number in range(5000):
        logger("tried").warning(f"problem {number}")
    (sparing,) = written.filters
    assert isinstance(sparing, RateLimit)
    assert len(sparing._minutes) <= log.EVENTS_COUNTED

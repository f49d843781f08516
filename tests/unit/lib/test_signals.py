"""A signal to stop is heard whatever the main thread is doing."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from overlayd.lib import signals
from tests.testbed.polling import eventually


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_signal_is_heard_while_the_main_thread_is_inside_the_events_own_lock(number: signal.Signals) -> None:
    event = threading.Event()
    with signals.calling(event.set):
        # As Event.wait and Event.clear are, for a moment.
        with event._cond:  # type: ignore[attr-defined]
            os.kill(os.getpid(), number)
        assert event.wait(5)


def test_every_signal_is_heard_and_none_after_the_end() -> None:
    before = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
    held = threads_and_files()
    heard: list[int] = []
    with signals.calling(lambda: heard.append(1)):
        for times in (1, 2, 3):
            os.kill(os.getpid(), signal.SIGTERM)
            eventually("the signal is heard", partial(enough, heard, times))
    assert len(heard) == 3
    assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == before
    assert threads_and_files() == held


def test_a_signal_that_the_kernel_gives_to_the_listening_thread_is_heard_too(recwarn: pytest.WarningsRecorder) -> None:
    heard = threading.Event()
    with signals.calling(heard.set):
        (listener,) = (thread for thread in threading.enumerate() if thread.name == "signals")
        assert listener.ident is not None
        for _times in range(3):
            signal.pthread_kill(listener.ident, signal.SIGTERM)
            assert heard.wait(5)
            heard.clear()
            assert listener.is_alive()
    assert not recwarn.list


def enough(heard: list[int], times: int) -> bool:
    return len(heard) == times


def threads_and_files() -> tuple[int, int]:
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

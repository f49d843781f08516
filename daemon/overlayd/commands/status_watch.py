"""`overlayd status --watch`: looks again and again, and shows it on a terminal, or prints each change."""

from __future__ import annotations

import json
import select
import sys
import time
from collections import deque
from collections.abc import Callable

from overlayd.commands.output import escaped, print_line
from overlayd.commands.status_frame import Facts, Look, changes, clock_of, facts, frame, remembered
from overlayd.commands.status_report import document, report
from overlayd.errors import OverlaydError
from overlayd.lib.terminal import Screen, is_terminal
from overlayd.monitoring.state import Status

# What a terminal may be high is less.
_CHANGES_KEPT = 200
_QUIT = "qQ\x04"
_ERRORS = select.POLLERR | select.POLLHUP | select.POLLNVAL


def watch(look: Callable[[], Status], *, interval_s: float, as_json: bool) -> int:
    """Look every `interval_s` until the user ends it; the exit status. A `look` that raises OverlaydError is shown.

    On a terminal q and Ctrl-C end it with 0, as top and watch do. In a pipe, and with `as_json`, it prints each change
    until it is ended by a signal, or its reader is gone: KeyboardInterrupt, BrokenPipeError.
    """

    def once() -> Look:
        try:
            return Look(at_s=time.time(), status=look())
        except OverlaydError as error:
            return Look(at_s=time.time(), problem=str(error))

    if as_json or not is_terminal():
        _print_changes(once, interval_s, _print_json if as_json else _print_report)
    try:
        with Screen() as screen:
            _show(screen, once, interval_s)
    except KeyboardInterrupt:
        pass
    return 0


def _show(screen: Screen, once: Callable[[], Look], interval_s: float) -> None:
    history: deque[str] = deque(maxlen=_CHANGES_KEPT)
    before: Facts = {}
    while True:
        found = once()
        due = time.monotonic() + interval_s
        now = facts(found)
        history.extend(changes(before, now, clock=clock_of(found.at_s)))
        before = remembered(before, now)
        while (left := due - time.monotonic()) > 0:
            # The terminal may have another size by now.
            size = screen.size
            lines = frame(found, [*history], width=size.columns, height=size.lines, interval_s=interval_s)
            screen.draw((style, escaped(text)) for style, text in lines)
            if any(key in _QUIT for key in screen.wait(left)):
                return


def _print_changes(once: Callable[[], Look], interval_s: float, print_look: Callable[[Look], None]) -> None:
    """Print the first look, and each that differs in more than times and counts. Ends by an exception only."""
    reader = select.poll()
    # No event is asked for: errors are reported always, and a reader that is gone is one.
    reader.register(1, 0)
    before: Facts | None = None
    while True:
        found = once()
        now = facts(found)
        if now != before:
            print_look(found)
            sys.stdout.flush()
        before = now
        if any(events & _ERRORS for _fd, events in reader.poll(1000 * interval_s)):
            raise BrokenPipeError


def _print_report(look: Look) -> None:
    print_line(f"-- {time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(look.at_s))}")
    lines = report(look.status, now_s=look.at_s) if look.status is not None else iter((look.problem or "",))
    for line in lines:
        print_line(line)
    print_line("")


def _print_json(look: Look) -> None:
    """One document in one line; without a status it has `error`."""
    shown = {"ready": False, "error": look.problem} if look.status is None else document(look.status)
    print_line(json.dumps({"time": look.at_s, **shown}))

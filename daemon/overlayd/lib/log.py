"""Structured logging: `message key=value …`, one line for each event, for journald and for people.

Field names are fixed: `backend`, `subnet`, `peer`, `ifname`, `revision`, `problem`, `reason`; `left_out` is how many
lines of the same event were not written in the minute before.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# sd-daemon(3): a line that begins with <N> has that syslog priority.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

LINES_A_MINUTE = 30
MINUTE_S = 60.0
EVENTS_COUNTED = 1000


class Logger:
    """A named logger whose events carry fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"overlayd.{name}")

    def debug(self, event: str, **fields: Any) -> None:
        """For a person who looks for a fault."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: Any) -> None:
        """Something changed. A quiet resync says nothing."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something is wrong that may pass by itself, or that does no harm yet."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        """Somebody must act."""
        self._logger.error(event, extra={"fields": fields})


class RateLimit(logging.Filter):
    """Lets LINES_A_MINUTE of one event through; the first line of the next minute says how many were left out.

    Others cause events by what they write into etcd or send to us: they must not fill the journal. DEBUG is not
    limited.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        # By logger and event: when its minute began, lines let through, lines left out.
        self._minutes: dict[tuple[str, str], tuple[float, int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written. Any thread may ask."""
        if record.levelno <= logging.DEBUG:
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        with self._lock:
            began, written, left_out = self._minutes.pop(key, (now, 0, 0))
            if now - began >= MINUTE_S:
                if left_out:
                    record.fields = {**getattr(record, "fields", {}), "left_out": left_out}
                began, written, left_out = now, 0, 0
            may = written < LINES_A_MINUTE
            self._minutes[key] = (began, written + may, left_out + (not may))
            if len(self._minutes) > EVENTS_COUNTED:
                # The event that was not seen for the longest time.
                del self._minutes[next(iter(self._minutes))]
        return may


class _Formatter(logging.Formatter):
    def __init__(self, *, journald: bool) -> None:
        super().__init__()
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        line = " ".join(
            [record.getMessage(), *(f"{key}={_quoted(value)}" for key, value in fields.items() if value is not None)]
        )
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        if self._journald:
            return f"<{_PRIORITY.get(record.levelno, 6)}>{line}"
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {line}"


def logger(name: str) -> Logger:
    """The logger of one part of the program."""
    return Logger(name)


def configure(*, verbose: bool) -> None:
    """Write events to standard error, with syslog priorities for journald (JOURNAL_STREAM, systemd.exec(5))."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journald="JOURNAL_STREAM" in os.environ))
    handler.addFilter(RateLimit())
    root = logging.getLogger("overlayd")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


def _quoted(value: object) -> str:
    text = str(value)
    if not text.isprintable():
        # What others wrote must not end the line, nor control the terminal.
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False) if not text or any(one in text for one in ' "=') else text

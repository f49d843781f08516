"""Logging in the form of fields: `message key=value …`, one line an event, for journald and for eyes.

Field names are fixed: `backend`, `subnet`, `peer`, `ifname`, `revision`, `problem`, `reason`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

# sd-daemon(3): a line that begins with <N> has that syslog priority.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Logger:
    """A named logger whose events carry fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"overlayd.{name}")

    def debug(self, event: str, **fields: Any) -> None:
        """For whoever looks for a fault."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: Any) -> None:
        """Something changed. A quiet resync says nothing."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something is wrong that may mend itself, or that does no harm yet."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        """Somebody must act."""
        self._logger.error(event, extra={"fields": fields})


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
    root = logging.getLogger("overlayd")
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


def _quoted(value: object) -> str:
    text = str(value)
    if not text.isprintable():
        # What others wrote may not end the line, nor command the terminal.
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False) if not text or any(one in text for one in ' "=') else text

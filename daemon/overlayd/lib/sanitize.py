"""Makes text of others fit for a message: one line, short, without control characters. Pure."""

from __future__ import annotations

import reprlib

_LONGEST = 100


class _Repr(reprlib.Repr):
    """Python's repr, cut in length and depth: deeper than it can follow, repr raises RecursionError."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = _LONGEST


_repr = _Repr()


def sanitized(value: object) -> str:
    """A value as Python writes it, shortened in its middle where it is long."""
    return _shortened(_repr.repr(value), 2 * _LONGEST)


def plain(text: str) -> str:
    """A text as it is if it is harmless, else quoted."""
    return text if text.isprintable() and len(text) <= _LONGEST else sanitized(text)


def _shortened(text: str, most: int) -> str:
    half = most // 2 - 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"

"""Echoes that ping sends until it is interrupted: which of them count, and which were answered."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

# An echo that was sent so long ago and has no answer is lost.
ANSWERED_S = 0.5
_SENT = re.compile(r"(\d+) packets transmitted")
_ANSWER = re.compile(r"bytes from .* (?:icmp_)?seq=(\d+)")


@dataclass(frozen=True)
class Echoes:
    """How many were sent, and the numbers of those that were answered, the first being 1."""

    sent: int
    answered: frozenset[int]


def before_the_end() -> None:
    """Wait, before ping is interrupted: what was lost by now shows as echoes without an answer before later ones."""
    threading.Event().wait(ANSWERED_S)


def parse_echoes(text: str, interval_s: float) -> Echoes:
    """The echoes of a ping (iputils', without -q) that was interrupted, which ends it at once.

    Its last echoes do not count where answers to them may have been on their way. Raises ValueError.
    """
    found = _SENT.search(text)
    if found is None:
        raise ValueError(f"ping printed no summary: {text.strip()[-300:]!r}")
    sent, answered = int(found[1]), frozenset(int(number) for number in _ANSWER.findall(text))
    under_way = sent - max(answered, default=0)
    if under_way * interval_s < ANSWERED_S:
        sent -= under_way
    return Echoes(sent, answered)

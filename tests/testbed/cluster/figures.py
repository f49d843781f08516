"""What was measured, as values, and how it is read from what ping and iperf3 print. Pure: no I/O."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_COUNTS = re.compile(r"(\d+) packets transmitted, (\d+)(?: packets)? received")
_TIMES = re.compile(r"(?:rtt|round-trip) min/avg/max(?:/mdev)? = ([\d.]+)/([\d.]+)/([\d.]+)")


class NotAFigure(ValueError):
    """A program's output holds no result. The text quotes it."""


@dataclass(frozen=True, kw_only=True)
class Ping:
    """A run of pings. Round trips in ms; None where none came back."""

    sent: int
    received: int
    average_ms: float | None
    maximum_ms: float | None

    @property
    def lost(self) -> int:
        """How many were not answered."""
        return self.sent - self.received


@dataclass(frozen=True, kw_only=True)
class HostPair:
    """One direction between two hosts: container to container, and host to host below it.

    Rates are those of one TCP flow, as its receiver counts them.
    """

    source: str
    target: str
    ping: Ping
    gbit_s: float
    underlay_ping: Ping
    underlay_gbit_s: float

    @property
    def ratio(self) -> float:
        """The overlay's rate as a part of the underlay's."""
        return self.gbit_s / self.underlay_gbit_s if self.underlay_gbit_s else 0.0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Several measurements of one value: the median and the extremes."""

    median: float
    lowest: float
    highest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one measurement or more."""
        return cls(median=statistics.median(values), lowest=min(values), highest=max(values), count=len(values))


def parse_ping(text: str) -> Ping:
    """The summary that ping prints, iputils' or busybox's. Raises NotAFigure."""
    counts, times = _COUNTS.search(text), _TIMES.search(text)
    if not counts:
        raise NotAFigure(f"ping printed no summary: {text.strip()[-300:]!r}")
    return Ping(
        sent=int(counts[1]),
        received=int(counts[2]),
        average_ms=float(times[2]) if times else None,
        maximum_ms=float(times[3]) if times else None,
    )


def parse_iperf3(text: str) -> float:
    """The receiver's rate in Gb/s from `iperf3 --json` of a TCP client. Raises NotAFigure with iperf3's own error."""
    try:
        document: dict[str, Any] = json.loads(text)
        if "error" in document:
            raise NotAFigure(f"iperf3: {document['error']}")
        return float(document["end"]["sum_received"]["bits_per_second"]) / 1e9
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, NotAFigure):
            raise
        raise NotAFigure(f"iperf3 printed no result: {text.strip()[-300:]!r}") from error


def as_document(pairs: Sequence[HostPair]) -> list[dict[str, Any]]:
    """The pairs as JSON values."""
    return [dataclasses.asdict(pair) | {"ratio": round(pair.ratio, 3)} for pair in pairs]

"""The ratios in a document of the bench, wherever they stand in it. Pure.

A ratio is what the bench calls `part` or `ratio`: a part of the bare underlay in the same run. It is a number, a spread
of several measurements (`median`, `lowest`, `highest`), or several of these by name.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("part", "parts", "ratio", "ratios")


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One ratio with its spread; the three are equal where it was measured once."""

    median: float
    lowest: float
    highest: float


def ratios(document: object) -> dict[str, Ratio]:
    """All ratios by a name made of the keys that lead to them. Those in a list are one, with the list's spread."""
    found: dict[str, list[Ratio]] = {}
    for name, ratio in _walk(document, ()):
        found.setdefault(name, []).append(ratio)
    return {name: _together(several) for name, several in found.items()}


def ratio_of(value: object) -> Ratio | None:
    """The ratio that a number or a spread is; None for anything else."""
    if (one := _number(value)) is not None:
        return Ratio(median=one, lowest=one, highest=one)
    if isinstance(value, Mapping) and (median := _number(value.get("median"))) is not None:
        low, high = (median if (found := _number(value.get(key))) is None else found for key in ("lowest", "highest"))
        return Ratio(median=median, lowest=low, highest=high)
    return None


def _walk(value: Any, path: tuple[str, ...], *, within: bool = False) -> Iterator[tuple[str, Ratio]]:
    """`within`: below one of KEYS, where every number and every spread is a ratio."""
    if within and (ratio := ratio_of(value)) is not None:
        yield " · ".join(path), ratio
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            # Also `tcp_1_part`: the word before it tells which.
            before, _, last = str(key).rpartition("_")
            named = (before,) if before else ()
            if last in KEYS:
                yield from _walk(inner, (*path, *named), within=True)
            else:
                yield from _walk(inner, (*path, str(key)), within=within)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, path, within=within)


def _together(several: list[Ratio]) -> Ratio:
    return Ratio(
        median=statistics.median(one.median for one in several),
        lowest=min(one.lowest for one in several),
        highest=max(one.highest for one in several),
    )


def _number(value: object) -> float | None:
    # NaN and the infinities, which Python's JSON reads, are none.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    return None

"""The ratios in a document of the bench, wherever they stand in it. Pure.

A ratio is what the bench calls `part` or `ratio`: a part of the bare underlay in the same run. It is a number, a spread
of several measurements (`median`, `lowest`, `highest`), or several of these by name.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SEPARATOR = " · "
# `cpu_s_per_gbit`, `tcp_round_trip_us`; but `connections_per_s` and `tcp_gbit_s` are rates.
_LESS_IS_BETTER = re.compile(r"_(s|cpu)_per_\w+$|(?<!per)(?<!bit)_(s|ms|us|ns|bytes|percent)$")
KEYS = ("part", "parts", "ratio", "ratios")


@dataclass(frozen=True)
class _Key:
    name: str
    gathers: bool = False


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One ratio with its spread; the three are equal where it was measured once."""

    median: float
    lowest: float
    highest: float


def ratios(document: object) -> dict[str, Ratio]:
    """All ratios by a name made of the keys that lead to them. Those in a list are one, with the list's spread.

    A key that only gathers (`backends`, `figures`) is left out of the name, unless two ratios would have one name then.
    """
    found: dict[tuple[_Key, ...], list[Ratio]] = {}
    for path, ratio in _walk(document, ()):
        found.setdefault(path, []).append(ratio)
    short = Counter(map(_short, found))
    return {
        _short(path) if short[_short(path)] == 1 else SEPARATOR.join(key.name for key in path): _together(several)
        for path, several in found.items()
    }


def less_is_better(name: str) -> bool:
    """Whether a ratio is of times, or of what something costs, by the unit at its name's end."""
    return bool(_LESS_IS_BETTER.search(name))


def ratio_of(value: object) -> Ratio | None:
    """The ratio that a number or a spread is; None for anything else."""
    if (one := _number(value)) is not None:
        return Ratio(median=one, lowest=one, highest=one)
    if isinstance(value, Mapping) and (median := _number(value.get("median"))) is not None:
        low, high = (median if (found := _number(value.get(key))) is None else found for key in ("lowest", "highest"))
        return Ratio(median=median, lowest=low, highest=high)
    return None


def _walk(value: Any, path: tuple[_Key, ...], *, within: bool = False) -> Iterator[tuple[tuple[_Key, ...], Ratio]]:
    """`within`: below one of KEYS, where every number and every spread is a ratio."""
    if within and (ratio := ratio_of(value)) is not None:
        yield path, ratio
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            # Also `tcp_1_part`: the word before it tells which.
            before, _, last = str(key).rpartition("_")
            named = (_Key(before),) if before else ()
            if last in KEYS:
                yield from _walk(inner, (*path, *named), within=True)
            else:
                gathers = str(key).endswith("s") and isinstance(inner, Mapping) and not set(inner) & set(KEYS)
                yield from _walk(inner, (*path, _Key(str(key), gathers=gathers and not within)), within=within)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, path, within=within)


def _short(path: tuple[_Key, ...]) -> str:
    return SEPARATOR.join(key.name for key in path if not key.gathers)


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

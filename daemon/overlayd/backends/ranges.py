"""Ranges of numbers, and which of them a range overlaps, by binary search. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable


class Index:
    """Ranges, both ends included. Those given at first may overlap; one that is added later overlaps none."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Begin with these ranges; those that overlap are merged."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(ranges):
            if self._lasts and first <= self._lasts[-1]:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def overlap(self, first: int, last: int) -> int | None:
        """The beginning of a range that shares a number with this one; None if there is none."""
        at = bisect_right(self._firsts, last) - 1
        return self._firsts[at] if at >= 0 and self._lasts[at] >= first else None

    def add(self, first: int, last: int) -> None:
        """Add a range that overlaps none of those there are."""
        insort(self._firsts, first)
        insort(self._lasts, last)

    def remove(self, first: int, last: int) -> None:
        """Remove a range that was added, or given at first and overlapped none."""
        del self._firsts[bisect_left(self._firsts, first)]
        del self._lasts[bisect_left(self._lasts, last)]

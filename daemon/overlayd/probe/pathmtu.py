"""The search for the largest packet that a path carries. Pure."""

from __future__ import annotations


class Search:
    """A search between a size that got through and the wished size.

    The wished size is tried first, and where it gets through the search ends. The size that a router names in an ICMP
    error is tried next; where packets are lost without an error, the interval is halved.
    """

    def __init__(self, *, wished_bytes: int, answered_bytes: int) -> None:
        """`answered_bytes` is a size that got through."""
        self._wished = wished_bytes
        self._good = answered_bytes
        self._bad = max(wished_bytes, answered_bytes) + 1
        self._hint: int | None = None

    @property
    def next_bytes(self) -> int | None:
        """The size to try next; None at the end of the search."""
        if self._good + 1 >= self._bad:
            return None
        if self._bad == self._wished + 1:
            return self._wished
        if self._hint is not None and self._good < self._hint < self._bad:
            return self._hint
        return (self._good + self._bad) // 2

    @property
    def found_bytes(self) -> int:
        """The largest size that got through so far."""
        return self._good

    def came_through(self, packet_bytes: int) -> None:
        """A packet of this size was answered."""
        self._good = max(self._good, packet_bytes)
        if self._hint == packet_bytes:
            # The router that named this size refuses larger packets.
            self._bad = min(self._bad, packet_bytes + 1)

    def got_lost(self, packet_bytes: int, *, hint_bytes: int | None = None) -> None:
        """A packet of this size was not answered. `hint_bytes` is the size that a router named in an ICMP error."""
        self._bad = min(self._bad, packet_bytes)
        self._hint = hint_bytes

"""How large a packet a path takes: the sizes to try, one after the other. Pure."""

from __future__ import annotations


class Search:
    """Narrows down the largest packet that comes through, between one that did and one that was wished for.

    The wished size is tried first: where nothing is wrong, that is all. What a router says it takes is believed; a
    path that swallows large packets in silence is halved.
    """

    def __init__(self, *, wished_bytes: int, answered_bytes: int) -> None:
        """`answered_bytes` is a size that came through."""
        self._wished = wished_bytes
        self._good = answered_bytes
        self._bad = max(wished_bytes, answered_bytes) + 1
        self._hint: int | None = None

    @property
    def next_bytes(self) -> int | None:
        """The size to try now; None when the answer is known."""
        if self._good + 1 >= self._bad:
            return None
        if self._bad == self._wished + 1:
            return self._wished
        if self._hint is not None and self._good < self._hint < self._bad:
            return self._hint
        return (self._good + self._bad) // 2

    @property
    def found_bytes(self) -> int:
        """The largest size that came through so far."""
        return self._good

    def came_through(self, packet_bytes: int) -> None:
        """A packet of this size was answered."""
        self._good = max(self._good, packet_bytes)
        if self._hint == packet_bytes:
            # Whoever named it refuses anything larger.
            self._bad = min(self._bad, packet_bytes + 1)

    def got_lost(self, packet_bytes: int, *, hint_bytes: int | None = None) -> None:
        """A packet of this size was not; `hint_bytes` is what somebody on the way said that it takes."""
        self._bad = min(self._bad, packet_bytes)
        self._hint = hint_bytes

"""How often this host writes its lease again while somebody else writes another over it.

Two hosts with one address, where etcd's roles hide them from each other, or a flannel on the same host, would take the
key from each other twice a second for ever.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# So many rewrites within this time are made at once. Each further one waits twice as long as the one before.
FREE_REWRITES, WITHIN_S = 5, 600.0
FIRST_REST_S, LONGEST_REST_S = 2.0, 120.0


class Contention:
    """Counts the rewrites of one lease. For one thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rewrites: deque[float] = deque(maxlen=100)

    def rest_s(self) -> float:
        """How many seconds to leave the key alone now; 0 where it may be written."""
        now = self._clock()
        while self._rewrites and now - self._rewrites[0] > WITHIN_S:
            self._rewrites.popleft()
        more = len(self._rewrites) - FREE_REWRITES
        if more < 0:
            return 0.0
        return max(0.0, self._rewrites[-1] + min(LONGEST_REST_S, FIRST_REST_S * 2.0**more) - now)

    def note(self) -> None:
        """Count one: the key was written again."""
        self._rewrites.append(self._clock())

    @property
    def is_on(self) -> bool:
        """Whether the key was written again too often of late."""
        return len(self._rewrites) >= FREE_REWRITES and self._clock() - self._rewrites[-1] < 2 * LONGEST_REST_S

"""Prolongs this host's lease in time."""

from __future__ import annotations

import time
from collections.abc import Callable

from overlayd.leases.held_lease import HeldLease
from overlayd.lib.counters import gauge
from overlayd.lib.log import logger
from overlayd.lib.periodic import Periodic
from overlayd.monitoring.liveness import Liveness

log = logger("keeper")

REFRESHED = gauge(
    "overlayd_lease_last_refresh_timestamp_seconds", "When etcd last prolonged the lease, in seconds since the epoch."
)
TTL = gauge("overlayd_lease_ttl_seconds", "How long the lease lives on when etcd does not prolong it any more.")

# The name under which /healthz has this thread.
LIVENESS = "lease keeper"
LONGEST_WAIT_S = 3600.0
RETRY_S = 10.0


class LeaseRenewal:
    """Prolongs the lease that it was last given, three times in each TTL and at least once an hour, in a thread.

    When a lease ends is etcd's to say; this host's clock is used for intervals alone. `margin_s` before the end is the
    latest moment. `refresh` prolongs in etcd, and is False when etcd has no such lease any more: then `on_gone` is
    called in the thread of the renewal, which waits for another lease. `clock` is a monotonic one; `epoch_clock` tells
    the time of day, for the metric.
    """

    def __init__(
        self,
        refresh: Callable[[HeldLease], bool],
        on_gone: Callable[[], None],
        *,
        ttl_s: float,
        margin_s: float = 0,
        liveness: Liveness,
        clock: Callable[[], float] = time.monotonic,
        epoch_clock: Callable[[], float] = time.time,
    ) -> None:
        self._refresh = refresh
        self._on_gone = on_gone
        self._ttl_s = ttl_s
        self._liveness = liveness
        self._clock = clock
        self._epoch_clock = epoch_clock
        self._refreshed_at = 0.0
        self._interval_s = interval_s(ttl_s, margin_s)
        self._held: HeldLease | None = None
        self._gone = False
        self._periodic = Periodic("lease-keeper", self.renew, interval_s=self._interval_s, retry_s=RETRY_S)

    def start(self) -> None:
        """Start the thread; the first renewal comes an interval later."""
        self._liveness.beat(LIVENESS, within_s=self._interval_s)
        self._periodic.start()

    def stop(self) -> None:
        """End the thread. The lease goes on until its TTL is over."""
        self._periodic.stop()

    def keep(self, held: HeldLease | None) -> None:
        """Renew this lease from now on; None for no lease. The same one again changes nothing."""
        if held is not self._held:
            self._held = held
            self._gone = False
            if held is not None:
                self._note_refresh()

    @property
    def gone(self) -> bool:
        """Whether etcd said that the lease does not exist any more."""
        return self._gone

    @property
    def problem(self) -> str | None:
        """Why it is not certain that this host holds a lease; None where it is."""
        if self._held is None:
            return "no subnet is held"
        if self._gone:
            return "etcd has no such lease any more"
        if not self._held.reserved and self._clock() - self._refreshed_at > self._ttl_s:
            return f"not prolonged for longer than its TTL of {self._ttl_s:g} s"
        return None

    def renew(self) -> None:
        """Prolong the lease now. Called by the thread, once in an interval. Raises StoreError."""
        self._liveness.beat(LIVENESS, within_s=self._interval_s)
        held = self._held
        if held is None or self._gone:
            return
        exists = self._refresh(held)
        # Another thread may have given it another lease meanwhile.
        if held is not self._held:
            return
        if exists:
            self._note_refresh()
        else:
            self._gone = True
            log.warning("etcd has no such lease any more", subnet=held.lease.subnets)
            self._on_gone()

    def _note_refresh(self) -> None:
        self._refreshed_at = self._clock()
        TTL.set(self._ttl_s)
        REFRESHED.set(self._epoch_clock())


def interval_s(ttl_s: float, margin_s: float) -> float:
    """How often to prolong a lease of `ttl_s` so that it never has less than `margin_s` left. Pure.

    A margin as long as the TTL or longer cannot be kept, and is ignored.
    """
    usual = min(ttl_s / 3, LONGEST_WAIT_S)
    return min(usual, ttl_s - margin_s) if margin_s < ttl_s else usual

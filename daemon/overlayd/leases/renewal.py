"""Prolongs the lease in time."""

from __future__ import annotations

import time
from collections.abc import Callable

from overlayd.leases.held_lease import HeldLease
from overlayd.leases.registry import Registry
from overlayd.lib.counters import gauge
from overlayd.lib.log import logger
from overlayd.lib.periodic import Periodic
from overlayd.monitoring.liveness import Liveness

log = logger("keeper")

REFRESHED = gauge(
    "overlayd_lease_last_refresh_timestamp_seconds", "When etcd last prolonged the lease, in seconds since the epoch."
)

LONGEST_WAIT_S = 3600.0
RETRY_S = 10.0


class LeaseRenewal:
    """Refreshes whatever holding it was last given, three times in each TTL and at least once an hour.

    Counts on etcd's TTL alone, never on the host's clock. `margin_s` before the end is the latest moment. When etcd has
    no such lease any more, `on_gone` is called in the keeper's thread; the keeper then waits for a new holding.
    """

    def __init__(
        self,
        registry: Registry,
        on_gone: Callable[[], None],
        *,
        ttl_s: float,
        margin_s: float = 0,
        liveness: Liveness,
    ) -> None:
        self._registry = registry
        self._on_gone = on_gone
        self._ttl_s = ttl_s
        self._liveness = liveness
        self._refreshed = 0.0
        self._interval_s = interval_s(ttl_s, margin_s)
        self._holding: HeldLease | None = None
        self._gone = False
        self._periodic = Periodic(
            "lease-keeper", self._prolong, interval_s=interval_s(ttl_s, margin_s), retry_s=RETRY_S
        )

    def start(self) -> None:
        """Begin to keep."""
        self._liveness.beat("lease keeper", within_s=self._interval_s)
        self._periodic.start()

    def stop(self) -> None:
        """End the thread; the lease is left to live on."""
        self._periodic.stop()

    def keep(self, holding: HeldLease | None) -> None:
        """Keep this holding from now on; None for none. The same one again changes nothing."""
        if holding is not self._holding:
            self._holding = holding
            self._gone = False
            if holding is not None:
                self._note_refresh()

    @property
    def gone(self) -> bool:
        """Whether etcd said that the lease does not exist any more."""
        return self._gone

    @property
    def problem(self) -> str | None:
        """Why the lease cannot be said to be held; None while it is."""
        if self._holding is None:
            return "no subnet is held"
        if self._gone:
            return "etcd has no such lease any more"
        if not self._holding.reserved and time.monotonic() - self._refreshed > self._ttl_s:
            return f"not prolonged for longer than its TTL of {self._ttl_s:g} s"
        return None

    def _note_refresh(self) -> None:
        self._refreshed = time.monotonic()
        REFRESHED.set(time.time())

    def _prolong(self) -> None:
        self._liveness.beat("lease keeper", within_s=self._interval_s)
        holding = self._holding
        if holding is None or self._gone:
            return
        if self._registry.refresh(holding):
            if holding is self._holding:
                self._note_refresh()
        elif holding is self._holding:
            self._gone = True
            log.warning("etcd has no such lease any more", subnet=holding.lease.subnets)
            self._on_gone()


def interval_s(ttl_s: float, margin_s: float) -> float:
    """How often to prolong a lease of `ttl_s` so that it never has less than `margin_s` left. Pure.

    A margin as long as the TTL or longer cannot be kept and does not count.
    """
    usual = min(ttl_s / 3, LONGEST_WAIT_S)
    return min(usual, ttl_s - margin_s) if margin_s < ttl_s else usual

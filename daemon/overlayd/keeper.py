"""Prolongs the lease in time, in a thread of its own: etcd may take seconds to say that it is not there."""

from __future__ import annotations

import threading
from collections.abc import Callable

from overlayd.errors import StoreError
from overlayd.log import logger
from overlayd.registry import Holding, Registry
from overlayd.store.client import jittered

log = logger("keeper")

LONGEST_WAIT_S = 3600.0
RETRY_S = 10.0


class Keeper:
    """Refreshes whatever holding it was last given, three times in each TTL and at least once an hour.

    Counts on etcd's TTL alone, never on the host's clock. When etcd has no such lease any more, `on_gone` is called in
    the keeper's thread; the keeper then waits for a new holding.
    """

    def __init__(self, registry: Registry, on_gone: Callable[[], None], *, ttl_s: float) -> None:
        self._registry = registry
        self._on_gone = on_gone
        self._interval_s = min(ttl_s / 3, LONGEST_WAIT_S)
        self._holding: Holding | None = None
        self._gone = False
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    def start(self) -> None:
        """Begin to keep."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the lease is left to live on."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def keep(self, holding: Holding | None) -> None:
        """Keep this holding from now on; None for none. The same one again changes nothing."""
        if holding is not self._holding:
            self._holding = holding
            self._gone = False

    @property
    def gone(self) -> bool:
        """Whether etcd said that the lease does not exist any more."""
        return self._gone

    def _run(self) -> None:
        wait_s = self._interval_s
        while not self._wake.wait(wait_s) and not self._stopping:
            holding, wait_s = self._holding, self._interval_s
            if holding is None or self._gone:
                continue
            try:
                if not self._registry.refresh(holding) and holding is self._holding:
                    self._gone = True
                    log.warning("etcd has no such lease any more", subnet=holding.lease.subnets)
                    self._on_gone()
            except StoreError as error:
                log.debug("could not prolong the lease", subnet=holding.lease.subnets, problem=error.message)
                wait_s = jittered(min(RETRY_S, self._interval_s))

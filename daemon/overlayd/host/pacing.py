"""The pauses of the daemon's main loop: until something changes, until a retry, or after a lost subnet."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from overlayd.lib.log import logger
from overlayd.lib.periodic import jittered
from overlayd.monitoring.liveness import Liveness

log = logger("daemon")

MAIN_LOOP = "main loop"
FIRST_ANSWER_S = 5.0
# A change is served at once while there are few of them, and changes that come in bursts are gathered: a reconciliation
# uses up this much time, and one begins only when no more than CREDIT_S are used in advance. So on a host whose
# neighbours come and go all the time, there are no more than two reconciliations a second.
LEAST_INTERVAL_S = 0.5
CREDIT_S = 2.5
# One that took processor time uses up this many times that long.
REST = 3
LONGEST_REST_S = 15.0
# FREE_LOSSES subnets may be lost within an hour without a pause; each further one doubles the pause.
FREE_LOSSES, LOSSES_WITHIN_S, FIRST_LOSS_REST_S, LONGEST_LOSS_REST_S = 3, 3600.0, 10.0, 600.0


def loss_rest_s(losses: int) -> float:
    """How long to wait, with this number of subnets lost within an hour. Pure."""
    more = losses - FREE_LOSSES
    return 0.0 if more <= 0 else min(LONGEST_LOSS_REST_S, FIRST_LOSS_REST_S * 2.0 ** (more - 1))


def round_rest_s(cpu_s: float) -> float:
    """How long to wait for each reconciliation that took `cpu_s` of processor time, before or after it. Pure.

    Whoever writes a hundred thousand leases into etcd, and changes them all the time, must not keep this host busy.
    """
    return max(LEAST_INTERVAL_S, min(LONGEST_REST_S, REST * cpu_s))


class Pacing:
    """The pauses of the main loop. `wake` and `stop` may be called by any thread, the rest by the main one.

    Each pause announces itself to `liveness`, and ends early when the daemon is to stop.
    """

    def __init__(
        self,
        liveness: Liveness,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`cpu_clock` is the processor time of the main thread. Both are in seconds."""
        self._liveness = liveness
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._losses: list[float] = []
        # The processor time that the main thread had taken when the reconciliation began.
        self._cpu_s = 0.0
        # Until when the reconciliations that were have used up the time.
        self._used_until = -math.inf

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """End the pause, because something changed."""
        self._changed.set()

    def stop(self) -> None:
        """End every pause, this one and those to come."""
        self._stopping.set()
        self._changed.set()

    def until_answered(self, answered: Callable[[], bool]) -> None:
        """Wait until `answered`, called after every change, is true, or a first answer takes too long."""
        self._liveness.beat(MAIN_LOOP, within_s=FIRST_ANSWER_S)
        deadline = self._clock() + FIRST_ANSWER_S
        while not answered() and not self.stopping:
            if not self._changed.wait(deadline - self._clock()) or self._clock() > deadline:
                return
            self._changed.clear()

    def until_due(self, resync_s: float) -> bool:
        """Wait until something changed or the resync is due, and until there is time for it; False after `stop`."""
        rest_s = round_rest_s(self._cpu_clock() - self._cpu_s)
        self._used_until = max(self._used_until, self._clock()) + rest_s
        self._liveness.beat(MAIN_LOOP, within_s=resync_s + max(0.0, self._used_until - CREDIT_S - self._clock()))
        self._changed.wait(resync_s)
        self.pause(max(0.0, self._used_until - CREDIT_S - self._clock()))
        self._changed.clear()
        self._cpu_s = self._cpu_clock()
        return not self.stopping

    def pause(self, seconds: float) -> None:
        """Wait for a short time within a reconciliation."""
        self._stopping.wait(seconds)

    def before_retry(self, retry_s: float) -> None:
        """Wait before something that failed is tried again: until something changed, at most `retry_s`."""
        self._liveness.beat(MAIN_LOOP, within_s=LEAST_INTERVAL_S + retry_s)
        self._stopping.wait(LEAST_INTERVAL_S)
        # Not cleared before: etcd may have come back during the wait above, and set it.
        self._changed.wait(jittered(retry_s))
        self._changed.clear()

    def after_loss(self) -> None:
        """Wait before another subnet is taken, longer each time: each one may restart docker, and be lost too."""
        now = self._clock()
        self._losses = [*(at for at in self._losses if now - at < LOSSES_WITHIN_S), now]
        rest_s = loss_rest_s(len(self._losses))
        if rest_s:
            log.warning("the subnet was lost too often; waiting before another is taken", wait_s=rest_s)
            self._liveness.beat(MAIN_LOOP, within_s=rest_s)
            self._stopping.wait(rest_s)

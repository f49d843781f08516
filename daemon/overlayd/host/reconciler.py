"""One reconciliation: it syncs every part of a host, and puts the results into the status, the log and the metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from overlayd.host.parts import DesiredHost, Part, PartReport
from overlayd.lib.counters import counter, gauge
from overlayd.lib.log import logger
from overlayd.monitoring.status_file import StatusFile

log = logger("host")

RECONCILIATIONS = counter(
    "overlayd_reconciliations_total",
    "Looks at kernel, firewall and leases: whole, or incomplete where something of this host's own part was refused.",
    label="result",
    known=("whole", "incomplete"),
)
RECONCILING = counter("overlayd_reconciliation_seconds_total", "Time that these looks took.")
REPAIRS = counter(
    "overlayd_repairs_total",
    "Looks that found something else than the look before had left, with the same lease and peers: others changed it.",
    label="part",
)
LAST_WHOLE = gauge(
    "overlayd_last_whole_reconciliation_timestamp_seconds",
    "When the last of them ended with nothing refused, in seconds since the epoch.",
)


class Reconciler:
    """Syncs parts in their order. Called in one thread."""

    def __init__(
        self,
        parts: Sequence[Part],
        status_file: StatusFile,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` and `wall_clock` are in seconds; the latter since the epoch."""
        self._parts = parts
        self._status_file = status_file
        self._clock = clock
        self._wall_clock = wall_clock
        self._last_desired: DesiredHost | None = None
        for part in parts:
            REPAIRS.add(0, of=part.name)
        self.changed = False
        """Whether the last reconciliation found anything that was not as it should be."""

    def reconcile(
        self, desired: DesiredHost, *, began: float, other_problems: Sequence[str], status: Mapping[str, Any]
    ) -> bool:
        """Sync all parts, also after one that has problems. Returns whether none has. Raises UnsupportedError.

        `began` is when the caller began to read what is desired, by `clock`. `other_problems` and the fields of
        `status` are put into the status; these problems do not count.
        """
        reports = {part.name: part.sync(desired) for part in self._parts}
        self._log_new_problems(reports)
        self._update_status(list(reports.values()), other_problems, status)
        self.changed = any(report.changed for report in reports.values())
        self._count_repairs(desired, reports)
        complete = not any(report.problems for report in reports.values())
        RECONCILIATIONS.add(of="whole" if complete else "incomplete")
        RECONCILING.add(self._clock() - began)
        if complete:
            LAST_WHOLE.set(self._wall_clock())
        return complete

    def _count_repairs(self, desired: DesiredHost, reports: Mapping[str, PartReport]) -> None:
        if desired == self._last_desired:
            for name, report in reports.items():
                if report.changed:
                    REPAIRS.add(of=name)
        self._last_desired = desired

    def _log_new_problems(self, reports: Mapping[str, PartReport]) -> None:
        logged = self._status_file.status.problems
        for name, report in reports.items():
            for problem in report.problems:
                if problem not in logged:
                    log.error("a part of this host is not as the leases ask for", part=name, problem=problem)

    def _update_status(
        self, reports: Sequence[PartReport], other_problems: Sequence[str], status: Mapping[str, Any]
    ) -> None:
        fields = dict(status)
        for report in reports:
            fields |= report.status
        fields["problems"] = (
            *(problem for report in reports for problem in report.problems),
            *other_problems,
            *(problem for report in reports for problem in report.outside_problems),
        )
        fields["warnings"] = (
            *status.get("warnings", ()),
            *(warning for report in reports for warning in report.warnings),
        )
        self._status_file.update(**fields)

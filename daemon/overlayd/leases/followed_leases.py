"""The leases of a network as they were last seen in etcd, and for a minute those that etcd has lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from overlayd.leases.keys import CONFIG, SUBNETS, Keys
from overlayd.leases.lease import Lease
from overlayd.leases.lease_table import LeaseTable, LeaseTableReader, uncontradicted
from overlayd.lib.log import logger
from overlayd.lib.sanitize import plain
from overlayd.store.follow import View
from overlayd.store.protocol import KeyValue

log = logger("registry")

# How long peers that an etcd without its data does not know any more are given to write their leases again.
GRACE_S = 60.0
# Keys that are no leases are named in the log, so many at a time.
NAMED_AT_ONCE = 10


class FollowedLeases:
    """Makes the table of leases from each view of etcd. A key that is not a lease is logged once and left out.

    When etcd comes back with an older revision, emptied or restored from a backup, a lease that is missing there need
    not have ended: leases seen before count for GRACE_S more, unless new ones contradict them. Their hosts write them
    again meanwhile. For one thread.
    """

    def __init__(self, keys: Keys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._reader = LeaseTableReader()
        self._last: tuple[View, LeaseTable] | None = None
        self._logged: Mapping[str, str] = {}
        self._lost: Mapping[str, Lease] = {}
        self._lost_until = 0.0

    def read(self, view: View) -> LeaseTable:
        """The table of that view; the same object while the view is the same."""
        if self._lost and self._clock() > self._lost_until:
            self._lost, self._last = {}, None
        if self._last is None or self._last[0] is not view:
            self._note_lost_data(view)
            entries = ((name.removeprefix(SUBNETS), kv) for name, kv in view.entries.items() if name != CONFIG)
            found = self._reader.read(entries, left_out=view.left_out)
            self._log_malformed(found.malformed)
            leases = {**uncontradicted(self._lost, found.leases), **found.leases}
            self._last = (view, replace(found, leases=leases))
        return self._last[1]

    def table(self, entries: Mapping[str, KeyValue]) -> LeaseTable:
        """The table of a list, by the names of leases. What `read` has parsed is not parsed again."""
        return self._reader.read(entries.items())

    def _note_lost_data(self, view: View) -> None:
        if self._last is None or view.revision >= self._last[0].revision:
            return
        self._lost = self._last[1].leases
        self._lost_until = self._clock() + GRACE_S
        log.error(
            "etcd has lost data: its revision went back; peers seen before are kept for a while",
            revision=view.revision,
            before=self._last[0].revision,
            peers=len(self._lost),
        )

    def _log_malformed(self, malformed: Mapping[str, str]) -> None:
        news = [name for name, problem in malformed.items() if self._logged.get(name) != problem]
        self._logged = dict(malformed)
        for name in news[:NAMED_AT_ONCE]:
            log.warning("not a lease, skipped", key=plain(self._keys.lease(name)), problem=malformed[name])
        if len(news) > NAMED_AT_ONCE:
            log.warning("more keys are not leases, skipped", count=len(news) - NAMED_AT_ONCE)

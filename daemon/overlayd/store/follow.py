"""Keeps a copy of parts of etcd up to date, by a list and a watch, and again after every failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType

from overlayd.errors import StoreDenied, StoreError
from overlayd.lib.log import logger
from overlayd.lib.periodic import jittered
from overlayd.lib.quick_dataclass import dataclass
from overlayd.store.bounded_keys import BoundedKeys, Bounds
from overlayd.store.client import Store
from overlayd.store.protocol import KeyValue
from overlayd.store.servers import Compacted, Refused
from overlayd.store.watch import Change, EtcdWatch

log = logger("store")

FIRST_RETRY_S = 0.5
# A change in an etcd that has come back reaches the kernel within five seconds, this wait included.
LAST_RETRY_S = 2.0
# Each login costs etcd a tenth of a second of work; a whole fleet with a wrong password must not take it down.
REFUSED_RETRY_S = 15.0
HEALTH_INTERVAL_S = 1.5
# The pause before listing again when the revision was compacted before the watch began.
COMPACTED_S = 0.5
# After a watch that lasted at least this long, etcd is listed again at once.
LASTED_S = 1.0
# The shortest time between two lists, where keys were left out and there is room for them now.
LIST_AGAIN_S = 30.0
# After a list that took longer than this, the next one waits for as long as that took.
LONG_LIST_S = 0.2


@dataclass(frozen=True, kw_only=True)
class View:
    """What was in the followed parts at `revision`, and whether they are still being followed.

    While etcd is away `connected` is False, `problem` says why and `hint` what to do, and `entries` are the last that
    were seen. `left_out` is how many keys etcd has that are too many, or have names too long, to be among them
    (bounded_keys.py).
    """

    entries: Mapping[str, KeyValue] = field(default_factory=lambda: MappingProxyType({}))
    revision: int = 0
    connected: bool = False
    problem: str | None = None
    hint: str | None = None
    left_out: int = 0


class Follower:
    """Follows parts of what is below a prefix, in a thread of its own.

    A part that ends in `/` is all below it, any other one key (Store.pages); "" is all below the prefix. `on_change` is
    called in that thread after every change and must not block. Nothing that etcd does ends the thread: only `stop`
    does. A second thread checks the health of the store's connection.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        on_change: Callable[[], None],
        *,
        parts: Sequence[str] = ("",),
        bounds: Bounds = Bounds(),  # noqa: B008  (a value that nothing changes)
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._parts = tuple(f"{prefix}{part}" for part in parts)
        self._bounds = bounds
        self._on_change = on_change
        self._stopping = threading.Event()
        self._watch: EtcdWatch | None = None
        # What is below is shared with the threads that read `view`.
        self._lock = threading.Lock()
        self._kept = BoundedKeys(self._bounds)
        self._view = View()
        self._changed = False
        self._revision = 0
        self._listed = 0.0
        self._list_not_before = 0.0
        self._threads = (
            threading.Thread(target=self._run, name="etcd-watch", daemon=True),
            threading.Thread(target=self._check_health, name="etcd-health", daemon=True),
        )

    @property
    def view(self) -> View:
        """What is known now: one state of all parts, and the same object while nothing changes. For any thread.

        It is made when it is read: a thousand changes between two reads cost one copy.
        """
        with self._lock:
            if self._changed:
                self._changed = False
                entries = MappingProxyType(dict(self._kept.entries))
                self._view = View(
                    entries=entries, revision=self._revision, connected=True, left_out=self._kept.left_out
                )
            return self._view

    def start(self) -> None:
        """Begin to follow."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads and wait for them."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.cancel()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _check_health(self) -> None:
        while not self._stopping.wait(jittered(HEALTH_INTERVAL_S)):
            self._store.health_check()

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            try:
                self._list()
                self._watch_on()
                retry_s = FIRST_RETRY_S
            except Compacted as error:
                log.info("listing again", reason=error.message)
                self._stopping.wait(jittered(COMPACTED_S))
            except StoreError as error:
                self._report(error)
                self._stopping.wait(jittered(retry_s))
                retry_s = min(
                    retry_s * 2, REFUSED_RETRY_S if isinstance(error, Refused | StoreDenied) else LAST_RETRY_S
                )

    def _list(self) -> None:
        # Always the whole list after a gap, never a resumed watch alone: an etcd that came back empty or restored has
        # an older revision than ours, and a watch from the future would wait in silence.
        self._stopping.wait(max(0.0, self._list_not_before - time.monotonic()))
        began = time.monotonic()
        kept = BoundedKeys(self._bounds)
        pages = self._store.pages(self._parts)
        for page in pages:
            for kv in page:
                kept.add(kv.key.removeprefix(self._prefix), kv)
            if self._stopping.is_set():
                return
        if self.view.problem is not None:
            log.info("etcd is back", revision=pages.revision)
        with self._lock:
            self._kept, self._revision, self._changed = kept, pages.revision, True
        self._listed = time.monotonic()
        took_s = self._listed - began
        self._list_not_before = self._listed + (took_s if took_s > LONG_LIST_S else 0)
        self._on_change()

    def _watch_on(self) -> None:
        self._watch = EtcdWatch(self._store, self._parts, revision=self._revision + 1)
        if self._stopping.is_set():
            return
        began = time.monotonic()
        try:
            self._follow(self._watch)
        except StoreError as error:
            if time.monotonic() - began < LASTED_S:
                raise
            # One server of several is gone, or has new certificates: not worth a warning if another answers at once.
            log.debug("the watch ended, listing again", problem=error.message)

    def _follow(self, watch: EtcdWatch) -> None:
        for changes in watch:
            if not changes:
                continue
            with self._lock:
                for change in changes:
                    self._apply(change)
                self._changed = True
            self._on_change()
            if self._kept.has_room and time.monotonic() - self._listed > LIST_AGAIN_S:
                watch.cancel()
                return

    def _apply(self, change: Change) -> None:
        name = change.key.removeprefix(self._prefix)
        # Changes are in order within a part only: one of this part may be older than the last of another.
        self._revision = max(self._revision, change.revision)
        if change.now is None:
            self._kept.delete(name)
        else:
            self._kept.put(name, change.now)

    def _report(self, error: StoreError) -> None:
        view = self.view
        if view.connected or view.problem is None:
            refused = isinstance(error, Refused | StoreDenied)
            log.warning(
                f"etcd {'refuses this host' if refused else 'is away'}; the data path stays as it is",
                problem=error.message,
                hint=error.hint,
            )
        with self._lock:
            self._changed = False
            self._view = View(
                entries=view.entries,
                revision=view.revision,
                problem=error.message,
                hint=error.hint,
                left_out=view.left_out,
            )
        self._on_change()

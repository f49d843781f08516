"""Parts of etcd as a value that keeps itself up to date, whatever happens to etcd meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from overlayd.errors import StoreDenied, StoreError
from overlayd.log import logger
from overlayd.store.client import KeyValue, Refused, Store, jittered
from overlayd.store.watch import Compacted, Watch

log = logger("store")

FIRST_RETRY_S = 0.5
# A change in an etcd that has come back reaches the kernel within five seconds, this wait included.
LAST_RETRY_S = 2.0
# Each login costs etcd a tenth of a second of work; a whole fleet with a wrong password must not take it down.
REFUSED_RETRY_S = 15.0
PULSE_S = 1.5
# A watch that stood this long and then broke did so for a new reason.
STOOD_S = 1.0


@dataclass(frozen=True, kw_only=True)
class View:
    """What is in the parts that are followed as of `revision`, and whether that is still being followed.

    While etcd is away `connected` is False, `problem` says why, and `entries` are the last that were seen.
    """

    entries: Mapping[str, KeyValue] = field(default_factory=lambda: MappingProxyType({}))
    revision: int = 0
    connected: bool = False
    problem: str | None = None


class Follower:
    """Follows parts of what is below a prefix in a thread of its own; `view` is always whole and may be read from any
    thread.

    A part that ends in `/` is all below it, any other one key (Store.list_parts); "" is all below the prefix.
    `on_change` is called in that thread after every new view and must not block. Nothing that etcd does ends the
    thread: only `stop` does. A second thread tends the store's connection.
    """

    def __init__(
        self, store: Store, prefix: str, on_change: Callable[[], None], *, parts: Sequence[str] = ("",)
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._parts = tuple(f"{prefix}{part}" for part in parts)
        self._on_change = on_change
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self.view = View()
        self._threads = (
            threading.Thread(target=self._run, name="etcd-watch", daemon=True),
            threading.Thread(target=self._tend, name="etcd-pulse", daemon=True),
        )

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

    def _tend(self) -> None:
        while not self._stopping.wait(jittered(PULSE_S)):
            self._store.tend()

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            try:
                self._list()
                self._watch_on()
                retry_s = FIRST_RETRY_S
            except Compacted as error:
                log.info("listing again", reason=error.message)
            except StoreError as error:
                self._report(error)
                self._stopping.wait(jittered(retry_s))
                retry_s = min(
                    retry_s * 2, REFUSED_RETRY_S if isinstance(error, Refused | StoreDenied) else LAST_RETRY_S
                )

    def _list(self) -> None:
        # Always the whole list after a gap, never a resumed watch alone: an etcd that came back empty or restored has
        # an older revision than ours, and a watch from the future would wait in silence.
        found, revision = self._store.list_parts(self._parts)
        entries = {kv.key.removeprefix(self._prefix): kv for kv in found}
        if self.view.problem is not None:
            log.info("etcd is back", revision=revision)
        self._publish(View(entries=MappingProxyType(entries), revision=revision, connected=True))

    def _watch_on(self) -> None:
        self._watch = Watch(self._store, self._parts, revision=self.view.revision + 1)
        if self._stopping.is_set():
            return
        began = time.monotonic()
        try:
            self._follow(self._watch)
        except StoreError as error:
            if time.monotonic() - began < STOOD_S:
                raise
            # One server of several is gone, or has new certificates: not a word more if another one answers at once.
            log.debug("the watch ended, listing again", problem=error.message)

    def _follow(self, watch: Watch) -> None:
        for changes in watch:
            if not changes:
                continue
            entries = dict(self.view.entries)
            for change in changes:
                name = change.key.removeprefix(self._prefix)
                if change.now is None:
                    entries.pop(name, None)
                else:
                    entries[name] = change.now
            # Each part has its own order: what comes of one may be older than what came of another.
            revision = max(self.view.revision, changes[-1].revision)
            self._publish(View(entries=MappingProxyType(entries), revision=revision, connected=True))

    def _report(self, error: StoreError) -> None:
        if self.view.connected or self.view.problem is None:
            log.warning("etcd is away; everything goes on as it is", problem=error.message)
        self._publish(View(entries=self.view.entries, revision=self.view.revision, problem=error.message))

    def _publish(self, view: View) -> None:
        self.view = view
        self._on_change()

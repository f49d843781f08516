"""A prefix of etcd as a value that keeps itself up to date, whatever happens to etcd meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from overlayd.errors import StoreError
from overlayd.log import logger
from overlayd.store.client import KeyValue, Store, jittered
from overlayd.store.watch import Compacted, Watch

log = logger("store")

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class View:
    """What is below the prefix as of `revision`, and whether that is still being followed.

    While etcd is away `connected` is False, `problem` says why, and `entries` are the last that were seen.
    """

    entries: Mapping[str, KeyValue] = field(default_factory=lambda: MappingProxyType({}))
    revision: int = 0
    connected: bool = False
    problem: str | None = None


class Follower:
    """Follows a prefix in a thread of its own; `view` is always whole and may be read from any thread.

    `on_change` is called in that thread after every new view and must not block. Nothing that etcd does ends the
    thread: only `stop` does.
    """

    def __init__(self, store: Store, prefix: str, on_change: Callable[[], None]) -> None:
        self._store = store
        self._prefix = prefix
        self._on_change = on_change
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self.view = View()
        self._thread = threading.Thread(target=self._run, name="etcd-watch", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            try:
                self._list()
                retry_s = FIRST_RETRY_S
                self._watch_on()
            except Compacted as error:
                log.info("listing again", reason=error.message)
            except StoreError as error:
                self._report(error)
                self._stopping.wait(jittered(retry_s))
                retry_s = min(retry_s * 2, LAST_RETRY_S)

    def _list(self) -> None:
        # Always the whole list after a gap, never a resumed watch alone: an etcd that came back empty or restored has
        # an older revision than ours, and a watch from the future would wait in silence.
        found, revision = self._store.list_prefix(self._prefix)
        entries = {kv.key.removeprefix(self._prefix): kv for kv in found}
        if self.view.problem is not None:
            log.info("etcd is back", revision=revision)
        self._publish(View(entries=MappingProxyType(entries), revision=revision, connected=True))

    def _watch_on(self) -> None:
        self._watch = Watch(self._store, self._prefix, revision=self.view.revision + 1)
        if self._stopping.is_set():
            return
        for changes in self._watch:
            if not changes:
                continue
            entries = dict(self.view.entries)
            for change in changes:
                name = change.key.removeprefix(self._prefix)
                if change.now is None:
                    entries.pop(name, None)
                else:
                    entries[name] = change.now
            self._publish(View(entries=MappingProxyType(entries), revision=changes[-1].revision, connected=True))

    def _report(self, error: StoreError) -> None:
        if self.view.connected or self.view.problem is None:
            log.warning("etcd is away; everything goes on as it is", problem=error.message)
        self._publish(View(entries=self.view.entries, revision=self.view.revision, problem=error.message))

    def _publish(self, view: View) -> None:
        self.view = view
        self._on_change()

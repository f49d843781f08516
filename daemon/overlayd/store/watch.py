"""A watch on parts of etcd that ends with an error when it is dead.

python-etcd3's own uses the processor all the time while etcd is away, waits for ever on a forbidden prefix, and misses
a compaction.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

from overlayd.errors import StoreDenied, StoreError
from overlayd.lib.quick_dataclass import dataclass
from overlayd.store.client import Store
from overlayd.store.pages import key_value, part_end
from overlayd.store.protocol import KeyValue
from overlayd.store.rpc import etcdrpc, grpc
from overlayd.store.servers import CALL_TIMEOUT_S, RIGHTS, Compacted


@dataclass(frozen=True, kw_only=True)
class Change:
    """One key's new state; `now` is None where it was deleted or its lease expired."""

    key: str
    now: KeyValue | None
    revision: int


class EtcdWatch:
    """The changes of `parts` (KeyStore.pages) from `revision` on, those of each part in order.

    One stream of etcd's with a watch on it for each part. Iterate in one thread; `cancel` from any.
    """

    def __init__(self, store: Store, parts: Sequence[str], *, revision: int) -> None:
        self._servers = store.servers
        self._parts = tuple(parts)
        self._what = f"watch {' and '.join(parts)}"
        self._revision = revision
        # gRPC reads requests from this until there is a None; until then the stream stays open.
        self._requests: queue.SimpleQueue[object | None] = queue.SimpleQueue()
        self._stream: object = None
        self._established: set[int] = set()
        self._cancelled = threading.Event()
        self._timed_out = threading.Event()

    def cancel(self) -> None:
        """End the iteration, now or when it begins. Harmless when called again."""
        self._cancelled.set()
        self._requests.put(None)
        if self._stream is not None:
            self._stream.cancel()  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[tuple[Change, ...]]:
        """Batches of changes, one revision or more at a time; an empty one when all parts are watched.

        Ends silently after `cancel`. Raises Compacted, or StoreError when the watch was refused or the connection died.
        """
        for part in self._parts:
            create = etcdrpc.WatchCreateRequest(
                key=part.encode(),
                range_end=part_end(part),
                start_revision=self._revision,
                progress_notify=True,
                fragment=True,
            )
            self._requests.put(etcdrpc.WatchRequest(create_request=create))
        stream = self._stream = self._servers.open_watch(iter(self._requests.get, None))
        deadline = threading.Timer(CALL_TIMEOUT_S, self._give_up)
        deadline.daemon = True
        deadline.start()
        try:
            if self._cancelled.is_set():
                return
            for response in stream:
                self._check(response)
                if response.created:
                    self._established.add(response.watch_id)
                    if self._is_established:
                        deadline.cancel()
                        yield ()
                if response.events:
                    yield tuple(_change(event) for event in response.events)
            if not self._cancelled.is_set():
                raise StoreError(f"etcd at {self._servers.name}: {self._what}: the server ended it")
        except grpc.RpcError as error:
            if self._cancelled.is_set():
                return
            if self._timed_out.is_set():
                raise StoreError(
                    f"etcd at {self._servers.name}: {self._what}: no answer within {CALL_TIMEOUT_S:g} s",
                    hint="is etcd running, and can this host reach it?",
                ) from error
            raise self._servers.failure(self._what, error) from error
        finally:
            deadline.cancel()
            self._requests.put(None)
            stream.cancel()

    @property
    def _is_established(self) -> bool:
        return len(self._established) == len(self._parts)

    def _give_up(self) -> None:
        if not self._is_established and self._stream is not None:
            self._timed_out.set()
            self._stream.cancel()  # type: ignore[attr-defined]

    def _check(self, response: object) -> None:
        if not response.canceled:  # type: ignore[attr-defined]
            return
        compacted = response.compact_revision  # type: ignore[attr-defined]
        if compacted:
            raise Compacted(f"etcd at {self._servers.name}: {self._what}: compacted up to {compacted}")
        reason = response.cancel_reason or "no reason given"  # type: ignore[attr-defined]
        # A forbidden prefix and an expired token look alike here: with a new login the next attempt tells which it was.
        self._servers.forget_login()
        raise StoreDenied(f"etcd at {self._servers.name}: {self._what}: refused: {reason}", hint=RIGHTS)


def _change(event: object) -> Change:
    kv = event.kv  # type: ignore[attr-defined]
    key = kv.key.decode("utf-8", "replace")
    revision = int(kv.mod_revision)
    if event.type:  # type: ignore[attr-defined]  # PUT is 0, DELETE is 1
        return Change(key=key, now=None, revision=revision)
    return Change(key=key, now=key_value(kv), revision=revision)

"""Lists of keys in pages, so that no answer of etcd is larger than what is received at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from overlayd.errors import StoreError
from overlayd.store.connection import RECEIVED_AT_MOST
from overlayd.store.protocol import KeyValue
from overlayd.store.rpc import etcdrpc
from overlayd.store.servers import Servers, TooLarge

# Keys in one answer. It is halved when an answer is too large, and doubled after so many that were not.
PAGE = 500
GROW_AFTER = 4


class Pages:
    """The keys of `parts`, as KeyPages says.

    Iterating raises StoreError; Compacted where etcd does not keep the revision of the first page any more.
    """

    def __init__(self, servers: Servers, parts: Sequence[str]) -> None:
        self._servers = servers
        self._parts = tuple(parts)
        self._what = f"list {' and '.join(parts)}"
        self._limit = PAGE
        self._good_answers = 0
        self._without_values = False
        self.revision = 0
        self.count = 0

    def __iter__(self) -> Iterator[list[KeyValue]]:
        """One page after another: a part after the other, each in the order of its keys."""
        answer = self._ask(lambda size: _txn([_range(part.encode(), part_end(part), size) for part in self._parts]))
        self.revision = int(answer.header.revision)
        self.count = sum(int(response.response_range.count) for response in answer.responses)
        for part, response in zip(self._parts, answer.responses, strict=True):
            page = response.response_range
            yield self._read(page)
            while page.more and page.kvs:
                page = self._next(page.kvs[-1].key, part_end(part))
                yield self._read(page)

    def _next(self, last: bytes, end: bytes) -> Any:
        asked = self._ask(lambda size: _txn([_range(last + b"\0", end, size, revision=self.revision)]))
        page = asked.responses[0].response_range
        if page.kvs and page.kvs[0].key <= last:
            # Or this loop would have no end.
            raise StoreError(
                f"etcd at {self._servers.name}: {self._what}: the next page begins before the end of the last one"
            )
        return page

    def _ask(self, request: Any) -> Any:
        """etcd's answer to a request of the present page size, which is made smaller until the answer fits."""
        while True:
            try:
                answer = self._servers.call(self._what, lambda c: c.kv.Txn, request(self._limit), repeatable=True)
            except TooLarge:
                if not self._limit:
                    raise
                # 0 stands for a single key without its value.
                self._limit, self._good_answers = self._limit // 2, 0
                continue
            self._without_values = self._limit == 0
            self._good_answers += 1
            if self._without_values or self._good_answers >= GROW_AFTER:
                self._limit, self._good_answers = min(PAGE, max(1, self._limit * 2)), 0
            return answer

    def _read(self, page: Any) -> list[KeyValue]:
        found = [key_value(kv) for kv in page.kvs]
        return [replace(kv, dropped_bytes=RECEIVED_AT_MOST) for kv in found] if self._without_values else found


def key_value(kv: Any) -> KeyValue:
    """etcd's message as a value."""
    return KeyValue(
        key=kv.key.decode("utf-8", "replace"),
        value=bytes(kv.value),
        mod_revision=int(kv.mod_revision),
        lease_id=int(kv.lease),
        create_revision=int(kv.create_revision),
    )


def prefix_end(prefix: str) -> bytes:
    """The first key after every key that starts with `prefix`; etcd's range ends are exclusive."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])


def part_end(part: str) -> bytes:
    """etcd's range_end for a part: the first key after all that begin with it; nothing where the part is one key."""
    return prefix_end(part) if part.endswith("/") else b""


def _range(key: bytes, end: bytes, limit: int, *, revision: int = 0) -> Any:
    return etcdrpc.RequestOp(
        request_range=etcdrpc.RangeRequest(
            key=key, range_end=end, limit=max(1, limit), revision=revision, keys_only=limit == 0
        )
    )


def _txn(reads: Sequence[Any]) -> Any:
    return etcdrpc.TxnRequest(success=list(reads))

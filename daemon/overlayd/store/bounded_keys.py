"""Keys of etcd in memory, within bounds: somebody may write a hundred thousand keys, and values of megabytes.

The keys that were created first are kept, the same ones on every host; the others are counted. Of a value that is too
large only its size is kept. For one thread at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import field, replace

from overlayd.lib.quick_dataclass import dataclass
from overlayd.store.protocol import KeyValue


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How many keys are kept, how long their names may be, and their values: each, and all together.

    `always` are names that are kept however many others there are, with how long their values may be.
    """

    keys: int = 20_000
    name_length: int = 256
    value_bytes: int = 64 * 1024
    all_values_bytes: int = 16 * 1024 * 1024
    always: Mapping[str, int] = field(default_factory=dict)


class BoundedKeys:
    """Keys by their names, the oldest ones, within bounds. `left_out` counts the others."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.entries: dict[str, KeyValue] = {}
        self._bytes = 0
        # A heap, the youngest key first; some of its keys may be deleted already.
        self._by_age: list[tuple[int, str]] = []
        self._overlong = 0
        self._surplus = 0

    @property
    def left_out(self) -> int:
        """How many keys etcd has that are not kept."""
        return self._overlong + self._surplus

    @property
    def has_room(self) -> bool:
        """Whether a tenth of the bounds is free while keys are left out: they can be had by listing again."""
        return (
            self._surplus > 0
            and len(self.entries) <= self._bounds.keys * 0.9
            and self._bytes <= self._bounds.all_values_bytes * 0.9
        )

    def add(self, name: str, kv: KeyValue) -> None:
        """A key of a list."""
        if self._is_overlong(name):
            self._overlong += 1
            return
        self._keep(name, kv)
        self._make_room()

    def put(self, name: str, kv: KeyValue) -> None:
        """A key that was written after the list."""
        new = kv.create_revision == kv.mod_revision
        if self._is_overlong(name):
            self._overlong += new
        elif name in self.entries:
            self._drop(name)
            self._keep(name, kv)
            self._make_room()
        elif new and self._surplus and name not in self._bounds.always:
            # Keys that are older than this one are left out already.
            self._surplus += 1
        elif new:
            self._keep(name, kv)
            self._make_room()

    def delete(self, name: str) -> None:
        """A key that was deleted after the list."""
        if self._is_overlong(name):
            self._overlong = max(0, self._overlong - 1)
        elif name in self.entries:
            self._drop(name)
        else:
            self._surplus = max(0, self._surplus - 1)

    def _is_overlong(self, name: str) -> bool:
        return len(name) > self._bounds.name_length

    def _keep(self, name: str, kv: KeyValue) -> None:
        if len(kv.value) > self._bounds.always.get(name, self._bounds.value_bytes):
            kv = replace(kv, value=b"", dropped_bytes=len(kv.value))
        self.entries[name] = kv
        if name not in self._bounds.always:
            self._bytes += len(kv.value)
            heapq.heappush(self._by_age, (-kv.create_revision, name))

    def _drop(self, name: str) -> None:
        gone = self.entries.pop(name)
        if name in self._bounds.always:
            return
        self._bytes -= len(gone.value)
        if len(self._by_age) > 2 * len(self.entries) + 1000:
            kept = (one for one in self.entries.items() if one[0] not in self._bounds.always)
            self._by_age = [(-kv.create_revision, name) for name, kv in kept]
            heapq.heapify(self._by_age)

    def _make_room(self) -> None:
        while self._by_age and (len(self.entries) > self._bounds.keys or self._bytes > self._bounds.all_values_bytes):
            age, name = heapq.heappop(self._by_age)
            kept = self.entries.get(name)
            if kept is not None and kept.create_revision == -age:
                self._drop(name)
                self._surplus += 1

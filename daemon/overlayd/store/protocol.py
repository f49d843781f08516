"""What the rooms above ask of a store of keys: the daemon's and the commands' is etcd (client.py).

Leases, presences and reservations are typed by this, so that they load no gRPC, and so that a test can give them a
store of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyValue:
    """One key as etcd has it. `lease_id` is 0 where the key hangs on no lease; `create_revision` is its age.

    Of a value that was too large to be kept, `value` is empty, and `dropped_bytes` says how large it is at least.
    """

    key: str
    value: bytes
    mod_revision: int
    lease_id: int
    create_revision: int = 0
    dropped_bytes: int = 0


class KeyPages(Protocol):
    """A list of keys, some hundred at a time, to be iterated over once.

    `revision`, at which all of them were so, and `count`, of all of them, are known with the first page.
    """

    revision: int
    count: int

    def __iter__(self) -> Iterator[list[KeyValue]]:
        """One page after another, in the order of the keys."""


class KeyStore(Protocol):
    """Keys, and leases that keys hang on and end with. Any thread may call it. Every failure is a StoreError.

    Nothing but `put` writes without comparing first: what two hosts do at the same moment, one of them is told that the
    other was quicker.
    """

    @property
    def name(self) -> str:
        """The store's name for messages."""

    def get(self, key: str) -> KeyValue | None:
        """The key, or None."""

    def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Every key that begins with `prefix`, and the revision at which they all were so."""

    def pages(self, parts: Sequence[str]) -> KeyPages:
        """The keys of several parts as they all were at one revision.

        A part that ends in `/` is every key below it, any other one key: a role needs rights on no more than that.
        """

    def create(
        self,
        key: str,
        value: bytes,
        *,
        lease_id: int,
        none_below: str | None = None,
        quiet_below: tuple[str, int] | None = None,
        instead_of: str | None = None,
    ) -> bool:
        """Write the key if nobody has; False when somebody was first. Atomic.

        Also False where a key begins with `none_below`, or where one that begins with the first of `quiet_below` was
        written after the revision that is its second. `instead_of` is a key that is deleted in the same moment.
        """

    def replace(self, key: str, value: bytes, *, mod_revision: int, lease_id: int) -> bool:
        """Write the key if it is still as it was at `mod_revision`; False when it has changed or gone. Atomic."""

    def put(self, key: str, value: bytes) -> None:
        """Write the key, whatever was there."""

    def delete(self, key: str, *, mod_revision: int) -> bool:
        """Remove the key if it is still as it was at `mod_revision`. Atomic."""

    def grant(self, ttl_s: int) -> int:
        """A new lease of `ttl_s` seconds by the store's clock; its id."""

    def refresh(self, lease_id: int) -> int:
        """Prolong a lease by its own TTL. Returns the seconds left; 0 when there is no such lease any more."""

    def seconds_left(self, lease_id: int) -> int:
        """How long a lease still lives if nobody prolongs it; 0 when there is none any more."""

    def granted_ttl(self, lease_id: int) -> int:
        """For how long a lease is prolonged each time; 0 when there is none."""

    def revoke(self, lease_id: int) -> None:
        """End a lease, and with it every key that hangs on it."""

"""Writes the keys of leases below `<prefix>/subnets/`: creates, resumes and prolongs them.

Every write is a transaction that compares first: when two hosts write at the same moment, one of them gets the subnet
and the other one a refusal.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence

from overlayd.errors import StoreDenied, StoreError
from overlayd.leases.held_lease import HeldLease
from overlayd.leases.keys import BOUNDS, Keys, MalformedLease, parse_lease_name
from overlayd.leases.lease import Lease, read_lease
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.quick_dataclass import dataclass
from overlayd.store.bounded_keys import BoundedKeys
from overlayd.store.protocol import KeyStore, KeyValue

# With more keys than this, no subnet is chosen.
NAMES_AT_MOST = 200_000
# A host that loses a race for a pair of subnets waits up to this long: else all losers would list at the same moment.
RACE_PAUSE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class ListedLeases:
    """The keys of all leases at one revision. `entries` are kept within bounds; `names` are those of all keys."""

    entries: Mapping[str, KeyValue]
    names: Sequence[str]
    revision: int

    def subnets(self, *, without: str | None = None) -> Iterator[tuple[str, IPNetwork]]:
        """Each key's name with each subnet that it stands for, less those of one key.

        A key counts even if its value is not a lease: somebody wrote it for a reason.
        """
        for name in self.names:
            with contextlib.suppress(MalformedLease):
                for subnet in parse_lease_name(name) if name != without else ():
                    yield name, subnet


class LeaseWrites:
    """Reads and writes the keys of leases in the store. Every method may raise StoreError."""

    def __init__(self, store: KeyStore, keys: Keys, rng: random.Random) -> None:
        self._store = store
        self._keys = keys
        self._rng = rng

    def get(self, name: str) -> KeyValue | None:
        """The key of one lease as it is now."""
        return self._store.get(self._keys.lease(name))

    def list(self) -> ListedLeases:
        """All keys of leases as they are now. Raises StoreError also where there are more than NAMES_AT_MOST."""
        kept, names = BoundedKeys(BOUNDS), list[str]()
        pages = self._store.pages([self._keys.subnets])
        for page in pages:
            for kv in page:
                name = self._keys.lease_name(kv.key)
                kept.add(name, kv)
                if len(name) <= BOUNDS.name_length:
                    names.append(name)
            if pages.count > NAMES_AT_MOST:
                raise StoreError(
                    f"etcd has {pages.count} keys below {self._keys.subnets}: no subnet is chosen among more than "
                    f"{NAMES_AT_MOST}",
                    hint="find out who writes them, and delete them: overlayd lease list",
                )
        return ListedLeases(entries=kept.entries, names=names, revision=pages.revision)

    def create(
        self, lease: Lease, ttl_s: int, listed: ListedLeases, *, instead_of: str | None = None
    ) -> HeldLease | None:
        """Write the key of a lease whose subnets are free in a list. None where another host was faster.

        `instead_of` is the name of a lease that is deleted in the same transaction.
        """
        key = self._keys.lease(lease.key_name)
        # The keys of two pairs may differ and still share a subnet. So for a pair, no lease may have changed since the
        # list. A single subnet is free if its own key is.
        alone = lease.v6 is None and instead_of is None
        etcd_lease_id = self._store.grant(ttl_s)
        created = False
        try:
            with self._explained_denial():
                created = self._store.create(
                    key,
                    lease.value(),
                    lease_id=etcd_lease_id,
                    # The key of a pair begins with that of its IPv4 subnet: the subnet is free if no key begins so.
                    none_below=key if alone else None,
                    quiet_below=None if alone else (self._keys.subnets, listed.revision),
                    instead_of=self._keys.lease(instead_of) if instead_of else None,
                )
        finally:
            if not created:
                with contextlib.suppress(StoreError):
                    self._store.revoke(etcd_lease_id)
        if created:
            return HeldLease(lease=lease, etcd_lease_id=etcd_lease_id)
        if not alone:
            time.sleep(self._rng.uniform(0, RACE_PAUSE_S))
        return None

    def resume(self, kv: KeyValue, lease: Lease) -> HeldLease | None:
        """Go on with this host's own key, and write `lease` there if it says something else.

        None where its etcd lease has ended, or where another host wrote the key meanwhile. A key without an etcd lease
        is a reservation and stays one: with an etcd lease it would end one day.
        """
        if kv.lease_id and self._store.refresh(kv.lease_id) == 0:
            return None
        # Older versions published another address in place of the missing one in a lease without IPv4.
        if self.lease_of(kv) != lease or (lease.v4 is None and kv.value != lease.value()):
            with self._explained_denial():
                written = self._store.replace(kv.key, lease.value(), mod_revision=kv.mod_revision, lease_id=kv.lease_id)
            if not written:
                return None
        return HeldLease(lease=lease, etcd_lease_id=kv.lease_id)

    def prolong(self, held: HeldLease) -> bool:
        """Prolong a lease by its TTL; False when etcd has no such lease any more. A reservation needs no prolonging."""
        return held.reserved or self._store.refresh(held.etcd_lease_id) > 0

    def lease_of(self, kv: KeyValue) -> Lease | None:
        """The lease that a key holds; None where it is not a lease."""
        return read_lease(self._keys, kv)

    @contextlib.contextmanager
    def _explained_denial(self) -> Iterator[None]:
        try:
            yield
        except StoreDenied as error:
            raise StoreDenied(
                f"this host's user in etcd may not write below {self._keys.subnets}, so no subnet can be leased: "
                f"{error.message}",
                hint=error.hint,
            ) from error

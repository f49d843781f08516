"""The leases of a network: all of them as they were last seen, and this host's own.

Nothing else writes leases while a daemon runs; how it writes them is in lease_writes.py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from overlayd.errors import LeaseLost, StoreError
from overlayd.leases import allocate, presence
from overlayd.leases.contention import Contention
from overlayd.leases.followed_config import FollowedConfig
from overlayd.leases.followed_leases import FollowedLeases
from overlayd.leases.held_lease import HeldLease, PreviousLease, owned
from overlayd.leases.keys import BOUNDS, CONFIG, SUBNETS, Keys
from overlayd.leases.lease import Lease
from overlayd.leases.lease_table import LeaseTable
from overlayd.leases.lease_writes import RACE_PAUSE_S, LeaseWrites, ListedLeases
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, IPNetwork, overlaps
from overlayd.lib.log import logger
from overlayd.lib.periodic import all_at_once
from overlayd.store.client import Store
from overlayd.store.follow import Follower, View
from overlayd.store.openness import OpennessWatch

log = logger("registry")

# A host that loses more races than FREE_RACES waits longer each time.
FREE_RACES, LONGEST_RACE_PAUSE_S = 3, 2.0
# How long a host that loses each race goes on; and how many times one `reclaim` tries to write a lost lease again.
RACES_S = 30.0
REPAIRS_AT_MOST = 3
CONTESTED = "somebody else writes another lease over this host's again and again; it is written again less often"
CONTESTED_HINT = (
    "is there another host, or a flannel here, with this host's address? overlayd ping, overlayd lease list"
)


class Registry:
    """Follows one network in etcd. `acquire`, `reclaim` and `refresh` ask etcd; the rest is what was last seen."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        on_change: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._follower = Follower(store, f"{keys.prefix}/", on_change, parts=(CONFIG, SUBNETS), bounds=BOUNDS)
        self._config = FollowedConfig(keys, clock=clock)
        self._leases = FollowedLeases(keys, clock=clock)
        self._openness = OpennessWatch(
            store, keys.config, connected=lambda: self._follower.view.connected, on_change=on_change
        )
        self._rng = random.Random()
        self._writes = LeaseWrites(store, keys, self._rng)
        self._contention = Contention(clock=clock)

    def start(self) -> None:
        """Begin to follow the network."""
        self._follower.start()
        self._openness.start()

    def stop(self) -> None:
        """Stop following."""
        all_at_once(self._openness.stop, self._follower.stop)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what others can do to this network through etcd, or are doing."""
        found = (*self._openness.warnings, self._config.warning, CONTESTED if self._contention.is_on else None)
        return tuple(one for one in found if one)

    @property
    def view(self) -> View:
        """What etcd held when it last answered, and whether it is connected now."""
        return self._follower.view

    def network_config(self) -> NetworkConfig:
        """The network config as last seen; while it changes too often, the one that is still followed.

        Raises StoreError before etcd has answered, NetworkConfigError if it is missing or wrong.
        """
        view = self.view
        if not view.revision:
            raise StoreError(view.problem or f"etcd at {self._store.name}: not reached yet", hint=view.hint)
        return self._config.read(view.entries.get(CONFIG))

    def lease_table(self) -> LeaseTable:
        """Every lease as last seen."""
        return self._leases.read(self.view)

    def checked_previous(self, previous: PreviousLease, public_ip: IPAddress) -> PreviousLease:
        """The record of this host's last run; without its etcd lease if that is a running host's. Raises StoreError.

        A machine that was cloned from another has that one's record, and would take its lease.
        """
        for name, lease in self.lease_table().leases.items():
            if lease.public_ip == public_ip or not self._is_attached(name, previous.etcd_lease_id):
                continue
            ours = presence.this_host()
            holder = presence.other_at(self._store, self._keys, lease.public_ip, ours)
            if holder is not None:
                log.error(
                    "this host's record of its last lease names the lease of another host, which lives: was this host "
                    "made from that one's image? It takes a lease of its own",
                    subnet=lease.subnets,
                    holder=f"{holder.hostname} ({lease.public_ip}, {holder.id})",
                    host=f"{ours.hostname} ({public_ip}, {ours.id})",
                )
                return replace(previous, etcd_lease_id=0)
        return previous

    def older_leases_of_others(self, previous: PreviousLease, public_ip: IPAddress) -> list[Lease]:
        """The leases of other hosts that are older than this host's own. One at this host's address is its own."""
        leases = self.lease_table().leases
        own = [one.created for one in leases.values() if one.public_ip == public_ip and one.created]
        return [
            one
            for name, one in leases.items()
            if one.public_ip != public_ip
            and not self._is_attached(name, previous.etcd_lease_id)
            and (not own or one.created < min(own))
        ]

    def _is_attached(self, name: str, etcd_lease_id: int) -> bool:
        """Whether a lease's key is attached to that etcd lease."""
        kv = self.view.entries.get(SUBNETS + name)
        return kv is not None and kv.lease_id != 0 and kv.lease_id == etcd_lease_id

    def acquire(
        self,
        config: NetworkConfig,
        make_lease: Callable[[Subnets], Lease],
        *,
        public_ip: IPAddress,
        previous: PreviousLease,
        ttl_s: int,
        avoid: Collection[IPNetwork] = (),
    ) -> HeldLease:
        """Hold subnets: those this host has, else the previous ones, else random free ones that hold none of `avoid`.

        `make_lease` makes the lease to publish for them. A lease of this host that does not fit the config any more is
        given up in the same transaction; its subnets that do fit are kept. A lost race is tried again with what is then
        free. Raises StoreError, SubnetsExhausted; StoreDenied where etcd's roles let this host read the leases but not
        write one.
        """
        deadline, races = self._clock() + RACES_S, 0
        while self._clock() < deadline:
            held = self._try_to_acquire(
                config, make_lease, public_ip=public_ip, previous=previous, ttl_s=ttl_s, avoid=avoid
            )
            if held is not None:
                return held
            log.info("another host was faster; trying again")
            races += 1
            if races > FREE_RACES:
                time.sleep(self._rng.uniform(0, min(LONGEST_RACE_PAUSE_S, RACE_PAUSE_S * 2 ** (races - FREE_RACES))))
        raise StoreError(
            f"the keys below {self._keys.subnets} change too often: for {RACES_S:g} s each subnet was gone, or the "
            "leases had changed, before this host had it",
            hint="find out who writes there: overlayd lease list",
        )

    def _try_to_acquire(
        self,
        config: NetworkConfig,
        make_lease: Callable[[Subnets], Lease],
        *,
        public_ip: IPAddress,
        previous: PreviousLease,
        ttl_s: int,
        avoid: Collection[IPNetwork],
    ) -> HeldLease | None:
        """Try once; None where another host was faster."""
        listed = self._writes.list()
        leases = self._leases.table(listed.entries).leases
        lease_ids = {name: kv.lease_id for name, kv in listed.entries.items()}
        # A lease whose key is spelled in another way (`-` for `:`) is replaced by one under the right key.
        well_named = {name: lease for name, lease in leases.items() if name == lease.key_name}
        resumed = allocate.own_lease(well_named.values(), public_ip, config, avoid)
        old_name, old = owned(lease_ids, leases, public_ip, previous) or (None, None)
        if resumed is None and old is not None and old_name in well_named and config.fits(old.subnets):
            resumed = old if allocate.is_clear(old.subnets, avoid) else None
        if resumed is not None:
            return self._writes.resume(listed.entries[resumed.key_name], make_lease(resumed.subnets))
        taken = [*(subnet for _name, subnet in listed.subnets(without=old_name)), *avoid]
        preferred = old.subnets if old else previous.subnets
        subnets = allocate.choose_subnets(config, taken, preferred=preferred, rng=self._rng)
        return self._writes.create(make_lease(subnets), ttl_s, listed, instead_of=old_name)

    def reclaim(self, held: HeldLease, *, ttl_s: int) -> HeldLease:
        """Look whether etcd still has this host's lease, and write it again where it is gone or changed.

        Returns `held` itself when all is well; a new one, on the same subnet, when the key had gone (an expired or
        revoked lease, an etcd that lost its data) or was changed. Raises LeaseLost when another host has the subnet,
        StoreError.
        """
        for _attempt in range(REPAIRS_AT_MOST):
            found = self._try_to_reclaim(held, ttl_s)
            if found is not None:
                return found
        raise StoreError(f"the lease of {held.lease.subnets} had gone or was changed, and changes all the time")

    def _try_to_reclaim(self, held: HeldLease, ttl_s: int) -> HeldLease | None:
        lease = held.lease
        seen = self.view.entries.get(SUBNETS + lease.key_name)
        if seen is not None and seen.lease_id == held.etcd_lease_id and self._writes.lease_of(seen) == lease:
            return held
        # What this host wrote itself may not be in the view yet: ask etcd.
        current = self._writes.get(lease.key_name)
        found = self._writes.lease_of(current) if current is not None else None
        if found is not None and found.public_ip != lease.public_ip:
            raise LeaseLost(
                f"{lease.subnets} is leased to {found.public_ip} now, not to this host ({lease.public_ip})",
                hint="this host takes another subnet; restart docker to move its containers there",
            )
        if current is not None and current.lease_id == held.etcd_lease_id and found == lease:
            return held
        contested = current is not None and found != lease
        rest_s = self._contention.rest_s() if contested else 0
        if rest_s:
            raise StoreError(f"{lease.subnets}: {CONTESTED}; left alone for {rest_s:.0f} s", hint=CONTESTED_HINT)
        if current is None:
            listed = self._writes.list()
            _refuse_if_taken(lease, listed)
            written = self._writes.create(lease, ttl_s, listed)
        else:
            written = self._writes.resume(current, lease)
        if written is None:
            return None
        if written.reserved and not held.reserved and found == lease:
            log.info("the lease was made a reservation", subnet=lease.subnets)
            return written
        log.warning("the lease had gone or was changed in etcd; written again", subnet=lease.subnets)
        if contested:
            self._contention.note()
            if self._contention.is_on:
                log.warning(CONTESTED, subnet=lease.subnets, hint=CONTESTED_HINT)
        return written

    def refresh(self, held: HeldLease) -> bool:
        """Prolong the lease; False when etcd has no such lease any more. Raises StoreError."""
        return self._writes.prolong(held)


def _refuse_if_taken(lease: Lease, listed: ListedLeases) -> None:
    """Raise LeaseLost if another key holds a part of a lease's subnets: it was taken while the lease had gone."""
    for name, subnet in listed.subnets():
        if any(overlaps(subnet, own) for own in lease.subnets):
            raise LeaseLost(
                f"{lease.subnets}: {subnet} was leased to another host meanwhile (key {name})",
                hint="this host takes another subnet; restart docker to move its containers there",
            )

"""The leases of a network, on top of the store: see them all, hold one's own.

The only place that decides what is written below `<prefix>/subnets/`. Every write is a transaction that compares first:
whatever two hosts do at the same moment, one of them has the subnet and the other knows.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from overlayd import allocate
from overlayd.addresses import IPAddress, IPNetwork, overlaps
from overlayd.errors import LeaseLost, NetworkConfigError, StoreDenied, StoreError
from overlayd.lease import Lease, MalformedLease, Subnets, parse_key, parse_lease
from overlayd.log import logger
from overlayd.network import NetworkConfig, parse_network_config
from overlayd.store.client import KeyValue, Store
from overlayd.store.follow import Follower, View
from overlayd.store.openness import OpennessWatch

log = logger("registry")

CONFIG = "config"
SUBNETS = "subnets/"
# How long peers that an etcd without memory does not know any more are given to write their leases again.
AMNESTY_S = 60.0
# Whoever loses a race for a pair of subnets waits up to this long, or all would list again at the same moment.
RACE_PAUSE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Holding:
    """This host's lease and what it hangs on. `etcd_lease_id` is 0 for a reservation, which never expires."""

    lease: Lease
    etcd_lease_id: int

    @property
    def reserved(self) -> bool:
        """Whether an administrator keeps this subnet for this host."""
        return self.etcd_lease_id == 0


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What this host held when it last ran. Who knows the id of the etcd lease, which is random, is its owner."""

    subnets: Subnets = field(default_factory=Subnets)
    etcd_lease_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Census:
    """All leases of the network by the last part of their keys, and what is wrong with the entries that are none.

    `reserved` are those that hang on no etcd lease: kept for a host, whether it runs or not.
    """

    leases: Mapping[str, Lease]
    malformed: Mapping[str, str]
    reserved: frozenset[str] = frozenset()


class Registry:
    """One network in etcd, followed. Reads come from memory; `acquire`, `reclaim` and `refresh` ask etcd."""

    def __init__(self, store: Store, prefix: str, on_change: Callable[[], None]) -> None:
        self._store = store
        self._prefix = prefix
        self._follower = Follower(store, f"{prefix}/", on_change, parts=(CONFIG, SUBNETS))
        self._openness = OpennessWatch(
            store, prefix, connected=lambda: self._follower.view.connected, on_change=on_change
        )
        self._rng = random.Random()
        self._census: tuple[View, Census] | None = None
        self._complained: set[tuple[str, int]] = set()
        self._remembered: Mapping[str, Lease] = {}
        self._remember_until = 0.0

    def start(self) -> None:
        """Begin to follow the network."""
        self._follower.start()
        self._openness.start()

    def stop(self) -> None:
        """Stop following."""
        self._openness.stop()
        self._follower.stop()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What etcd lets others do that it should not, in sentences."""
        return self._openness.warnings

    @property
    def view(self) -> View:
        """What etcd held when it was last seen, and whether it is seen now."""
        return self._follower.view

    def network_config(self) -> NetworkConfig:
        """The network config as last seen. StoreError before etcd was seen, NetworkConfigError if it is no good."""
        view = self.view
        if not view.revision:
            raise StoreError(view.problem or f"etcd at {self._store.name}: not reached yet")
        return read_network_config(view.entries.get(CONFIG), self._prefix)

    def census(self) -> Census:
        """Every lease as last seen. An entry that is not a lease is logged once and left out.

        When etcd comes back with an older revision, emptied or restored, its silence about a peer means nothing: leases
        seen before count for AMNESTY_S more, unless new ones contradict them. Their hosts are writing them again.
        """
        view = self.view
        if self._remembered and time.monotonic() > self._remember_until:
            self._remembered, self._census = {}, None
        if self._census is None or self._census[0] is not view:
            self._note_amnesia(view)
            entries = {name.removeprefix(SUBNETS): kv for name, kv in view.entries.items() if name.startswith(SUBNETS)}
            found = _census(entries)
            self._complain(entries, found)
            leases = {**_uncontradicted(self._remembered, found.leases), **found.leases}
            self._census = (view, replace(found, leases=leases))
        return self._census[1]

    def acquire(
        self,
        config: NetworkConfig,
        wanted: Callable[[Subnets], Lease],
        *,
        public_ip: IPAddress,
        remembered: Remembered,
        ttl_s: int,
        avoid: Collection[IPNetwork] = (),
    ) -> Holding:
        """Hold subnets: those this host has, else the remembered ones, else random free ones that hold none of `avoid`.

        `wanted` makes the lease to publish for them. What this host has that does not fit the config any more is given
        up in the same moment, and kept as far as it fits. A lost race is tried again with what is then free. Raises
        StoreError, SubnetsExhausted; StoreDenied where etcd's roles let this host read the leases but not write one.
        """
        while True:
            entries, revision = self._entries()
            leases = _census(entries).leases
            # What stands under another spelling of its key is given up for the key itself.
            spelt = {name: lease for name, lease in leases.items() if name == lease.key_name}
            mine = allocate.own_lease(spelt.values(), public_ip, config)
            old = _owned(entries, leases, public_ip, remembered)
            if mine is None and old is not None and old[0] in spelt and config.fits(old[1].subnets):
                mine = old[1]
            if mine is not None:
                holding = self._resume(entries[mine.key_name], wanted(mine.subnets))
            else:
                given_up = old[0] if old else None
                taken = [subnet for name in entries if name != given_up for subnet in _subnets(name)]
                taken += avoid
                preferred = old[1].subnets if old else remembered.subnets
                subnets = allocate.choose_subnets(config, taken, preferred=preferred, rng=self._rng)
                holding = self._create(wanted(subnets), ttl_s, revision, instead_of=given_up)
            if holding is not None:
                return holding
            log.info("lost a race, trying again")

    def reclaim(self, holding: Holding, *, ttl_s: int) -> Holding:
        """Look whether etcd still says what we hold, and mend it if it can be mended.

        The same holding when all is well. A new one, on the same subnet, when the key had gone (an expired or
        revoked lease, an etcd that lost its data) or was changed. Raises LeaseLost when another host has it,
        StoreError.
        """
        lease = holding.lease
        seen = self.view.entries.get(SUBNETS + lease.key_name)
        if seen is not None and seen.lease_id == holding.etcd_lease_id and _published(seen) == lease:
            return holding
        # The view may be a moment behind what we wrote ourselves: ask.
        current = self._store.get(f"{self._prefix}/{SUBNETS}{lease.key_name}")
        found = _published(current) if current is not None else None
        if current is not None and found is not None and found.public_ip != lease.public_ip:
            raise LeaseLost(
                f"{lease.subnets} is leased to {found.public_ip} now, not to this host ({lease.public_ip})",
                hint="this host takes another subnet; restart docker to move its containers there",
            )
        if current is not None and current.lease_id == holding.etcd_lease_id and found == lease:
            return holding
        if current is None:
            entries, revision = self._entries()
            self._refuse_if_taken(lease, entries)
            mended = self._create(lease, ttl_s, revision)
        else:
            mended = self._resume(current, lease)
        if mended is None:
            return self.reclaim(holding, ttl_s=ttl_s)
        if mended.reserved and not holding.reserved and found == lease:
            log.info("the lease was made a reservation", subnet=lease.subnets)
        else:
            log.warning("the lease had gone or was changed in etcd; written again", subnet=lease.subnets)
        return mended

    def refresh(self, holding: Holding) -> bool:
        """Prolong the lease; False when etcd has no such lease any more. Raises StoreError."""
        return holding.reserved or self._store.refresh(holding.etcd_lease_id) > 0

    def _refuse_if_taken(self, lease: Lease, entries: Mapping[str, KeyValue]) -> None:
        """Raise LeaseLost if another key holds a part of what we held: it was taken while ours had gone."""
        for name in entries:
            for subnet in _subnets(name):
                if any(overlaps(subnet, ours) for ours in lease.subnets):
                    raise LeaseLost(
                        f"{lease.subnets}: {subnet} was leased to another host meanwhile (key {name})",
                        hint="this host takes another subnet; restart docker to move its containers there",
                    )

    def _note_amnesia(self, view: View) -> None:
        if self._census is None or view.revision >= self._census[0].revision:
            return
        self._remembered = self._census[1].leases
        self._remember_until = time.monotonic() + AMNESTY_S
        log.error(
            "etcd has lost its memory: its revision went back; peers seen before are kept for a while",
            revision=view.revision,
            before=self._census[0].revision,
            peers=len(self._remembered),
        )

    def _complain(self, entries: Mapping[str, KeyValue], census: Census) -> None:
        for name, problem in census.malformed.items():
            seen = (name, entries[name].mod_revision)
            if seen not in self._complained:
                self._complained.add(seen)
                log.warning("not a lease, skipped", key=f"{self._prefix}/{SUBNETS}{name}", problem=problem)

    def _entries(self) -> tuple[dict[str, KeyValue], int]:
        prefix = f"{self._prefix}/{SUBNETS}"
        found, revision = self._store.list_prefix(prefix)
        return {kv.key.removeprefix(prefix): kv for kv in found}, revision

    def _create(self, lease: Lease, ttl_s: int, revision: int, *, instead_of: str | None = None) -> Holding | None:
        """Write a new key. `revision` is that of the list by which its subnets were free."""
        prefix = f"{self._prefix}/{SUBNETS}"
        alone = lease.v6 is None and instead_of is None
        etcd_lease_id = self._store.grant(ttl_s)
        created = False
        try:
            with self._writing():
                created = self._store.create(
                    f"{prefix}{lease.key_name}",
                    lease.value(),
                    lease_id=etcd_lease_id,
                    # Keys begin with the IPv4 subnet: one alone or the first of a pair is free if none begins so.
                    none_below=f"{prefix}{lease.key_name}" if alone else None,
                    # With two subnets in one key, two hosts could each get one of a pair: nothing may have changed.
                    quiet_below=None if alone else (prefix, revision),
                    instead_of=f"{prefix}{instead_of}" if instead_of else None,
                )
        finally:
            if not created:
                with contextlib.suppress(StoreError):
                    self._store.revoke(etcd_lease_id)
        if created:
            return Holding(lease=lease, etcd_lease_id=etcd_lease_id)
        time.sleep(self._rng.uniform(0, 0 if alone else RACE_PAUSE_S))
        return None

    def _resume(self, kv: KeyValue, lease: Lease) -> Holding | None:
        # A key without an etcd lease is a reservation and stays one: giving it a lease would end it one day.
        if kv.lease_id and self._store.refresh(kv.lease_id) == 0:
            return None
        if _published(kv) != lease:
            with self._writing():
                written = self._store.replace(kv.key, lease.value(), mod_revision=kv.mod_revision, lease_id=kv.lease_id)
            if not written:
                return None
        return Holding(lease=lease, etcd_lease_id=kv.lease_id)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except StoreDenied as error:
            raise StoreDenied(
                f"this host's user in etcd may not write below {self._prefix}/{SUBNETS}, so no subnet can be leased: "
                f"{error.message}",
                hint=error.hint,
            ) from error


def read_network_config(kv: KeyValue | None, prefix: str) -> NetworkConfig:
    """The network config under `<prefix>/config`. Raises NetworkConfigError, which says how to write one."""
    if kv is None:
        raise NetworkConfigError(
            f"no network config in etcd under {prefix}/{CONFIG}",
            hint="""write one: overlayd config set '{"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}'""",
        )
    try:
        return parse_network_config(kv.value)
    except NetworkConfigError as error:
        raise NetworkConfigError(f"etcd {prefix}/{CONFIG}: {error.message}", hint=error.hint) from error


def _census(entries: Mapping[str, KeyValue]) -> Census:
    leases: dict[str, Lease] = {}
    malformed: dict[str, str] = {}
    for name, kv in entries.items():
        try:
            leases[name] = parse_lease(name, kv.value)
        except MalformedLease as error:
            malformed[name] = str(error)
    for name, twin in _second_spellings(leases).items():
        malformed[name] = f"it names the subnets of key {twin} once more"
        del leases[name]
    reserved = frozenset(name for name in leases if not entries[name].lease_id)
    return Census(leases=leases, malformed=malformed, reserved=reserved)


def _second_spellings(leases: Mapping[str, Lease]) -> dict[str, str]:
    """The keys that are another's lease once more, as IPv6 addresses have many spellings; and that other key."""
    first: dict[str, str] = {}
    # The key as overlayd and flannel write it counts, else the first by name.
    for name in sorted(leases, key=lambda name: (name != leases[name].key_name, name)):
        first.setdefault(leases[name].key_name, name)
    return {name: first[lease.key_name] for name, lease in leases.items() if first[lease.key_name] != name}


def _uncontradicted(old: Mapping[str, Lease], new: Mapping[str, Lease]) -> dict[str, Lease]:
    addresses = {lease.public_ip for lease in new.values()}
    return {
        name: lease
        for name, lease in old.items()
        if lease.public_ip not in addresses and not any(_overlap(lease, other) for other in new.values())
    }


def _overlap(one: Lease, other: Lease) -> bool:
    return any(overlaps(ours, theirs) for ours in one.subnets for theirs in other.subnets)


def _subnets(name: str) -> Iterator[IPNetwork]:
    # A key whose value is garbage still keeps its subnets: somebody wrote it for a reason.
    with contextlib.suppress(MalformedLease):
        yield from parse_key(name)


def _owned(
    entries: Mapping[str, KeyValue], leases: Mapping[str, Lease], public_ip: IPAddress, remembered: Remembered
) -> tuple[str, Lease] | None:
    """The lease that is this host's, by its address or by the etcd lease that it hangs on. Never a reservation."""
    for name, lease in sorted(leases.items()):
        lease_id = entries[name].lease_id
        if lease_id and (lease.public_ip == public_ip or lease_id == remembered.etcd_lease_id):
            return name, lease
    return None


def _published(kv: KeyValue) -> Lease | None:
    try:
        return parse_lease(kv.key.rpartition("/")[2], kv.value)
    except MalformedLease:
        return None

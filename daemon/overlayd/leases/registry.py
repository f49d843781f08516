"""The leases of a network, on top of the store: see them all, hold one's own.

The only place that decides what is written below `<prefix>/subnets/`. Every write is a transaction that compares first:
whatever two hosts do at the same moment, one of them has the subnet and the other knows.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from overlayd.errors import LeaseLost, StoreDenied, StoreError
from overlayd.leases import allocate, presence
from overlayd.leases.contention import Contention
from overlayd.leases.followed_config import CONFIG, CONFIG_BYTES, FollowedConfig
from overlayd.leases.held_lease import HeldLease, PreviousLease, owned
from overlayd.leases.keys import LEASE_BYTES, LEASE_NAME_LENGTH, MalformedLease, parse_lease_name
from overlayd.leases.lease import Lease, parse_lease
from overlayd.leases.lease_table import LeaseTable, Reader, uncontradicted
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, IPNetwork, overlaps
from overlayd.lib.log import logger
from overlayd.lib.sanitize import plain
from overlayd.store.client import Store
from overlayd.store.follow import Follower, View
from overlayd.store.kept import Bounds, Kept
from overlayd.store.openness import OpennessWatch
from overlayd.store.protocol import KeyValue

log = logger("registry")

SUBNETS = "subnets/"
# What is kept in memory of etcd.
BOUNDS = Bounds(name_length=len(SUBNETS) + LEASE_NAME_LENGTH, value_bytes=LEASE_BYTES, always={CONFIG: CONFIG_BYTES})
# Among more keys no subnet is chosen.
NAMES_AT_MOST = 200_000
# Entries that are no leases are named in the log, so many at a time.
NAMED_AT_ONCE = 10
# How long peers that an etcd without memory does not know any more are given to write their leases again.
AMNESTY_S = 60.0
# Whoever loses a race for a pair of subnets waits up to this long, or all would list again at the same moment.
RACE_PAUSE_S = 0.2
# Whoever loses more than so many waits longer each time.
FREE_RACES, LONGEST_RACE_PAUSE_S = 3, 2.0
# How long to go on while others are quicker each time; and how often a lease that is lost at once is written again.
RACES_S = 30.0
REPAIRS_AT_MOST = 3
CONTESTED = "somebody else writes another lease over this host's again and again; it is written again less often"
CONTESTED_HINT = (
    "is there another host, or a flannel here, with this host's address? overlayd ping, overlayd lease list"
)


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """What is below `subnets/` at one revision: what is kept of it, and the names of all."""

    entries: Mapping[str, KeyValue]
    names: Sequence[str]
    revision: int


class Registry:
    """One network in etcd, followed. Reads come from memory; `acquire`, `reclaim` and `refresh` ask etcd."""

    def __init__(self, store: Store, prefix: str, on_change: Callable[[], None]) -> None:
        self._store = store
        self._prefix = prefix
        self._follower = Follower(store, f"{prefix}/", on_change, parts=(CONFIG, SUBNETS), bounds=BOUNDS)
        self._config = FollowedConfig(prefix)
        self._openness = OpennessWatch(
            store, prefix, connected=lambda: self._follower.view.connected, on_change=on_change
        )
        self._rng = random.Random()
        self._reader = Reader()
        self._contest = Contention()
        self._lease_table: tuple[View, LeaseTable] | None = None
        self._complained: dict[str, str] = {}
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
        """What others may do to this network by etcd, or do, in sentences."""
        found = (*self._openness.warnings, self._config.warning, CONTESTED if self._contest.is_on else None)
        return tuple(one for one in found if one)

    @property
    def view(self) -> View:
        """What etcd held when it was last seen, and whether it is seen now."""
        return self._follower.view

    def network_config(self) -> NetworkConfig:
        """The network config as last seen, or as followed while it changes too often (SteadyConfig).

        Raises StoreError before etcd was seen, NetworkConfigError if it is no good.
        """
        view = self.view
        if not view.revision:
            raise StoreError(view.problem or f"etcd at {self._store.name}: not reached yet", hint=view.hint)
        return self._config.read(view.entries.get(CONFIG))

    def lease_table(self) -> LeaseTable:
        """Every lease as last seen. An entry that is not a lease is logged once and left out.

        When etcd comes back with an older revision, emptied or restored, its silence about a peer means nothing: leases
        seen before count for AMNESTY_S more, unless new ones contradict them. Their hosts are writing them again.
        """
        view = self.view
        if self._remembered and time.monotonic() > self._remember_until:
            self._remembered, self._lease_table = {}, None
        if self._lease_table is None or self._lease_table[0] is not view:
            self._note_amnesia(view)
            entries = ((name.removeprefix(SUBNETS), kv) for name, kv in view.entries.items() if name != CONFIG)
            found = self._reader.lease_table(entries, left_out=view.left_out)
            self._complain(found.malformed)
            leases = {**uncontradicted(self._remembered, found.leases), **found.leases}
            self._lease_table = (view, replace(found, leases=leases))
        return self._lease_table[1]

    def own_part(self, remembered: PreviousLease, public_ip: IPAddress) -> PreviousLease:
        """What this host remembers, less an etcd lease that is another host's, which lives. Raises StoreError.

        A machine that was made from another's image remembers what is that one's, and would take it from it.
        """
        for name, lease in self.lease_table().leases.items():
            if lease.public_ip == public_ip or not self._hangs_on(name, remembered.etcd_lease_id):
                continue
            ours = presence.this_host()
            holder = presence.other_at(self._store, self._prefix, lease.public_ip, ours)
            if holder is not None:
                log.error(
                    "the lease that this host remembers is another host's, which lives: was this one made from its "
                    "image? It takes a lease of its own",
                    subnet=lease.subnets,
                    holder=f"{holder.hostname} ({lease.public_ip}, {holder.id})",
                    host=f"{ours.hostname} ({public_ip}, {ours.id})",
                )
                return replace(remembered, etcd_lease_id=0)
        return remembered

    def others(self, remembered: PreviousLease, public_ip: IPAddress) -> list[Lease]:
        """The leases that other hosts had before this one had its own: of those at its address, none is theirs."""
        leases = self.lease_table().leases
        ours = [one.created for one in leases.values() if one.public_ip == public_ip and one.created]
        return [
            one
            for name, one in leases.items()
            if one.public_ip != public_ip
            and not self._hangs_on(name, remembered.etcd_lease_id)
            and (not ours or one.created < min(ours))
        ]

    def _hangs_on(self, name: str, etcd_lease_id: int) -> bool:
        kv = self.view.entries.get(SUBNETS + name)
        return kv is not None and kv.lease_id != 0 and kv.lease_id == etcd_lease_id

    def acquire(
        self,
        config: NetworkConfig,
        wanted: Callable[[Subnets], Lease],
        *,
        public_ip: IPAddress,
        remembered: PreviousLease,
        ttl_s: int,
        avoid: Collection[IPNetwork] = (),
    ) -> HeldLease:
        """Hold subnets: those this host has, else the remembered ones, else random free ones that hold none of `avoid`.

        `wanted` makes the lease to publish for them. What this host has that does not fit the config any more is given
        up in the same moment, and kept as far as it fits. A lost race is tried again with what is then free. Raises
        StoreError, SubnetsExhausted; StoreDenied where etcd's roles let this host read the leases but not write one.
        """
        deadline, races = time.monotonic() + RACES_S, 0
        while time.monotonic() < deadline:
            listed = self._entries()
            entries, revision = listed.entries, listed.revision
            leases = Reader().lease_table(entries.items()).leases
            # What stands under another spelling of its key is given up for the key itself.
            spelt = {name: lease for name, lease in leases.items() if name == lease.key_name}
            mine = allocate.own_lease(spelt.values(), public_ip, config, avoid)
            old = owned({name: kv.lease_id for name, kv in entries.items()}, leases, public_ip, remembered)
            if mine is None and old is not None and old[0] in spelt and config.fits(old[1].subnets):
                mine = old[1] if allocate.is_clear(old[1].subnets, avoid) else None
            if mine is not None:
                holding = self._resume(entries[mine.key_name], wanted(mine.subnets))
            else:
                given_up = old[0] if old else None
                taken = [subnet for name in listed.names if name != given_up for subnet in _subnets(name)]
                taken += avoid
                preferred = old[1].subnets if old else remembered.subnets
                subnets = allocate.choose_subnets(config, taken, preferred=preferred, rng=self._rng)
                holding = self._create(wanted(subnets), ttl_s, revision, instead_of=given_up)
            if holding is not None:
                return holding
            log.info("lost a race, trying again")
            races += 1
            if races > FREE_RACES:
                time.sleep(self._rng.uniform(0, min(LONGEST_RACE_PAUSE_S, RACE_PAUSE_S * 2 ** (races - FREE_RACES))))
        raise StoreError(
            f"the keys below {self._prefix}/{SUBNETS} change too often: for {RACES_S:g} s each subnet was gone, or the "
            "leases had changed, before this host had it",
            hint="find out who writes there: overlayd lease list",
        )

    def reclaim(self, holding: HeldLease, *, ttl_s: int) -> HeldLease:
        """Look whether etcd still says what we hold, and mend it if it can be mended.

        The same holding when all is well. A new one, on the same subnet, when the key had gone (an expired or
        revoked lease, an etcd that lost its data) or was changed. Raises LeaseLost when another host has it,
        StoreError.
        """
        for _attempt in range(REPAIRS_AT_MOST):
            mended = self._reclaim(holding, ttl_s)
            if mended is not None:
                return mended
        raise StoreError(f"the lease of {holding.lease.subnets} had gone or was changed, and changes all the time")

    def _reclaim(self, holding: HeldLease, ttl_s: int) -> HeldLease | None:
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
        contested = current is not None and found != lease
        rest_s = self._contest.rest_s() if contested else 0
        if rest_s:
            raise StoreError(f"{lease.subnets}: {CONTESTED}; left alone for {rest_s:.0f} s", hint=CONTESTED_HINT)
        if current is None:
            listed = self._entries()
            self._refuse_if_taken(lease, listed.names)
            mended = self._create(lease, ttl_s, listed.revision)
        else:
            mended = self._resume(current, lease)
        if mended is None:
            return None
        if mended.reserved and not holding.reserved and found == lease:
            log.info("the lease was made a reservation", subnet=lease.subnets)
        else:
            log.warning("the lease had gone or was changed in etcd; written again", subnet=lease.subnets)
            if contested:
                self._contest.note()
                if self._contest.is_on:
                    log.warning(CONTESTED, subnet=lease.subnets, hint=CONTESTED_HINT)
        return mended

    def refresh(self, holding: HeldLease) -> bool:
        """Prolong the lease; False when etcd has no such lease any more. Raises StoreError."""
        return holding.reserved or self._store.refresh(holding.etcd_lease_id) > 0

    def _refuse_if_taken(self, lease: Lease, names: Iterable[str]) -> None:
        """Raise LeaseLost if another key holds a part of what we held: it was taken while ours had gone."""
        for name in names:
            for subnet in _subnets(name):
                if any(overlaps(subnet, ours) for ours in lease.subnets):
                    raise LeaseLost(
                        f"{lease.subnets}: {subnet} was leased to another host meanwhile (key {name})",
                        hint="this host takes another subnet; restart docker to move its containers there",
                    )

    def _note_amnesia(self, view: View) -> None:
        if self._lease_table is None or view.revision >= self._lease_table[0].revision:
            return
        self._remembered = self._lease_table[1].leases
        self._remember_until = time.monotonic() + AMNESTY_S
        log.error(
            "etcd has lost its memory: its revision went back; peers seen before are kept for a while",
            revision=view.revision,
            before=self._lease_table[0].revision,
            peers=len(self._remembered),
        )

    def _complain(self, malformed: Mapping[str, str]) -> None:
        """Log what was not said yet: a few by name, the rest as a number."""
        news = [name for name, problem in malformed.items() if self._complained.get(name) != problem]
        self._complained = dict(malformed)
        for name in news[:NAMED_AT_ONCE]:
            log.warning("not a lease, skipped", key=plain(f"{self._prefix}/{SUBNETS}{name}"), problem=malformed[name])
        if len(news) > NAMED_AT_ONCE:
            log.warning("more entries are not leases, skipped", count=len(news) - NAMED_AT_ONCE)

    def _entries(self) -> _Listed:
        """What is below `subnets/` now. Raises StoreError, also where that is more than can be chosen among."""
        prefix = f"{self._prefix}/{SUBNETS}"
        kept, names = Kept(BOUNDS), list[str]()
        pages = self._store.pages([prefix])
        for page in pages:
            for kv in page:
                name = kv.key.removeprefix(prefix)
                kept.add(name, kv)
                if len(name) <= BOUNDS.name_length:
                    names.append(name)
            if pages.count > NAMES_AT_MOST:
                raise StoreError(
                    f"etcd has {pages.count} keys below {prefix}: no subnet is chosen among more than {NAMES_AT_MOST}",
                    hint="find out who writes them, and delete them: overlayd lease list",
                )
        return _Listed(entries=kept.entries, names=names, revision=pages.revision)

    def _create(self, lease: Lease, ttl_s: int, revision: int, *, instead_of: str | None = None) -> HeldLease | None:
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
            return HeldLease(lease=lease, etcd_lease_id=etcd_lease_id)
        time.sleep(self._rng.uniform(0, 0 if alone else RACE_PAUSE_S))
        return None

    def _resume(self, kv: KeyValue, lease: Lease) -> HeldLease | None:
        # A key without an etcd lease is a reservation and stays one: giving it a lease would end it one day.
        if kv.lease_id and self._store.refresh(kv.lease_id) == 0:
            return None
        # Without IPv4, older versions published another address in place of one.
        if _published(kv) != lease or (lease.v4 is None and kv.value != lease.value()):
            with self._writing():
                written = self._store.replace(kv.key, lease.value(), mod_revision=kv.mod_revision, lease_id=kv.lease_id)
            if not written:
                return None
        return HeldLease(lease=lease, etcd_lease_id=kv.lease_id)

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


def _subnets(name: str) -> Iterator[IPNetwork]:
    # A key whose value is garbage still keeps its subnets: somebody wrote it for a reason.
    with contextlib.suppress(MalformedLease):
        yield from parse_lease_name(name)


def _published(kv: KeyValue) -> Lease | None:
    try:
        return parse_lease(kv.key.rpartition("/")[2], kv.value)
    except MalformedLease:
        return None

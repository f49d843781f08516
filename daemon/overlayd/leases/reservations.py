"""What an administrator does with leases: list them, reserve subnets for a host, release them.

A reservation is a lease that never ends, as in flannel: its key has no etcd lease. It is kept whether its host runs or
not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from overlayd.errors import ConfigError, StoreDenied, StoreError
from overlayd.leases.conflicts import HostNeed, taken_by
from overlayd.leases.keys import Keys, MalformedLease, lease_name
from overlayd.leases.lease import FamilyLease, Lease, parse_lease, read_lease
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.presence import Identity, parse_identity
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, overlaps
from overlayd.lib.quick_dataclass import dataclass
from overlayd.store.protocol import KeyStore, KeyValue


@dataclass(frozen=True, kw_only=True)
class LeaseEntry:
    """The key of a lease. `lease` is None where `problem` says why the key is not a lease.

    `ends_in_s` is the time that is left by etcd's clock; None for a reservation. `host` is the overlayd that lives at
    the lease's address; None where none does.
    """

    name: str
    lease: Lease | None
    ends_in_s: int | None
    host: Identity | None
    problem: str | None = None


def entries(store: KeyStore, keys: Keys) -> list[LeaseEntry]:
    """Every lease and reservation, by key. Raises StoreError."""
    found, _revision = store.list_prefix(keys.subnets)
    hosts = live_hosts(store, keys)
    return [_entry(store, keys, kv, hosts) for kv in found]


def live_hosts(store: KeyStore, keys: Keys) -> dict[str, Identity]:
    """The daemons that live now, by the address that they publish; empty where etcd's roles hide them."""
    with contextlib.suppress(StoreDenied):
        found, _revision = store.list_prefix(keys.hosts)
        return {kv.key.removeprefix(keys.hosts): parse_identity(kv.value) for kv in found}
    return {}


def reserve(
    store: KeyStore,
    keys: Keys,
    config: NetworkConfig,
    subnets: Subnets,
    addresses: Mapping[int, IPAddress],
    *,
    needed: Collection[HostNeed] = (),
    force: bool = False,
    own: int = 0,
) -> str:
    """Keep `subnets` for the host at `addresses`, by IP version; the key.

    A lease that this host holds on them already becomes the reservation, as it stands. `own` is the etcd lease of the
    host that this runs on. Raises ConfigError where the subnets do not fit the network, somebody else has a part of
    them, they hold what hosts need (`needed`), or the host may be a flannel (see `release`); StoreError.
    """
    if not config.fits(subnets):
        raise ConfigError(f"{subnets} cannot be leased in {config}", hint=f"subnets there are {_lengths(config)}")
    for subnet in subnets:
        taken = taken_by(subnet, needed)
        if taken is not None:
            raise ConfigError(f"{subnet} {taken}: no host would serve it", hint="take another: overlayd lease list")
    missing = [subnet.version for subnet in subnets if subnet.version not in addresses]
    if missing:
        raise ConfigError(f"no IPv{missing[0]} address is given for {subnets}", hint="give the host's own addresses")
    key = keys.lease(lease_name(subnets))
    found, revision = store.list_prefix(keys.subnets)
    family_leases = {
        subnet.version: FamilyLease(subnet=subnet, public_ip=addresses[subnet.version]) for subnet in subnets
    }
    # Without a backend, no peer programs the reservation before its host has come. With a backend but without its data,
    # flannel would log an error.
    reservation = Lease(v4=family_leases.get(4), v6=family_leases.get(6), backend_type="")
    for kv in found:
        held = read_lease(keys, kv)
        if kv.key == key and held is not None and held.public_ip == reservation.public_ip:
            if kv.lease_id and not force and _silent(store, keys, kv, held, own):
                raise ConfigError(
                    f"{subnets} is leased to {held.public_ip}, and no overlayd says that it lives there: a flanneld "
                    "would make its lease again of the reservation when it prolongs it",
                    hint="stop flanneld there first; then, or if none runs there, give --force",
                )
            if kv.lease_id and not store.replace(key, kv.value, mod_revision=kv.mod_revision, lease_id=0):
                raise StoreError(f"{key} was changed at this very moment", hint="try again")
            return key
        if held is not None and any(overlaps(ours, theirs) for ours in subnets for theirs in held.subnets):
            raise ConfigError(
                f"{subnets} is not free: {held.subnets} is held by {held.public_ip}",
                hint=f"overlayd lease release {held.subnets}, or take another: overlayd lease list",
            )
    if not store.create(key, reservation.value(), lease_id=0, quiet_below=(keys.subnets, revision)):
        raise StoreError(f"{keys.subnets} was changed at this very moment", hint="try again")
    return key


def release(store: KeyStore, keys: Keys, subnets: Subnets, *, force: bool, own: int = 0) -> str:
    """Free a lease or reservation; the key. Raises ConfigError where there is none or its host may live, StoreError.

    A daemon that lives would write its lease again at once. A reservation of a host that lives becomes its lease. Where
    a lease's host has no presence, it may be a flannel that lives: flannel writes no presence, prolongs its lease once
    a day, and ends when the lease is gone. `own` is the etcd lease of the host that this runs on.
    """
    key = keys.lease(lease_name(subnets))
    kv = store.get(key)
    if kv is None:
        raise ConfigError(f"nobody holds {subnets}: {key} is not there", hint="overlayd lease list")
    held = read_lease(keys, kv)
    living = held and live_hosts(store, keys).get(str(held.public_ip))
    if kv.lease_id and living and not force:
        raise ConfigError(
            f"{subnets} is in use by {living.hostname} ({held.public_ip if held else '?'}), which would take it again",
            hint="stop overlayd there first, or give --force",
        )
    if kv.lease_id and not force and _silent(store, keys, kv, held, own):
        where = f"to {held.public_ip} " if held else ""
        raise ConfigError(
            f"{subnets} is leased {where}for {_duration(store.seconds_left(kv.lease_id))} more, and no overlayd says "
            "that it lives there: a flanneld there would end, and its containers lose their network",
            hint="if no host uses it any more, give --force",
        )
    if not store.delete(key, mod_revision=kv.mod_revision):
        raise StoreError(f"{key} was changed at this very moment", hint="try again")
    return key


def _silent(store: KeyStore, keys: Keys, kv: KeyValue, held: Lease | None, own: int) -> bool:
    """Whether it is unknown if a lease's host lives: it is not this host, and there is no presence at its address."""
    return kv.lease_id != own and not (held and str(held.public_ip) in live_hosts(store, keys))


def _duration(seconds: int) -> str:
    return str(timedelta(seconds=seconds))


def _entry(store: KeyStore, keys: Keys, kv: KeyValue, hosts: Mapping[str, Identity]) -> LeaseEntry:
    name = keys.lease_name(kv.key)
    ends_in_s = store.seconds_left(kv.lease_id) if kv.lease_id else None
    try:
        lease = parse_lease(name, kv.value)
    except MalformedLease as error:
        return LeaseEntry(name=name, lease=None, ends_in_s=ends_in_s, host=None, problem=str(error))
    return LeaseEntry(name=name, lease=lease, ends_in_s=ends_in_s, host=hosts.get(str(lease.public_ip)))


def _lengths(config: NetworkConfig) -> str:
    parts: Sequence[str] = [f"/{pool.subnet_len} from {pool.subnet_min} to {pool.subnet_max}" for pool in config.pools]
    return " and ".join(parts)

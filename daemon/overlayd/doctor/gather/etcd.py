"""etcd as it can be reached from here: each server by itself, the TLS files, and what the network's keys say."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from overlayd.doctor.facts import Endpoint, Etcd, Published
from overlayd.doctor.gather import containers, tls
from overlayd.errors import ConfigError, NetworkConfigError, OverlaydError, StoreDenied, StoreError
from overlayd.leases.followed_config import read_network_config
from overlayd.leases.keys import Keys
from overlayd.leases.lease import read_lease
from overlayd.leases.network_config import NetworkConfig
from overlayd.settings import Settings
from overlayd.store import endpoints as addresses
from overlayd.store.client import Store
from overlayd.store.openness import openness
from overlayd.store.protocol import KeyValue
from overlayd.store.resolve import Unresolved
from overlayd.store.rights import RightsTrial, try_rights

TIMEOUT_S = 3.0


def read_etcd(settings: Settings) -> tuple[Etcd, NetworkConfig | None, tuple[Published, ...]]:
    """The store; the network config and the leases, where it gives them."""
    files = tls.files(settings)
    servers = _endpoints(settings)
    keys = Keys(settings.etcd_prefix)
    trial = RightsTrial(missing=(), full=False)
    try:
        with _store(settings) as store:
            # First, so that what is refused can be named.
            trial = try_rights(store, read=[keys.config], write=[keys.subnets, keys.hosts])
            raw = store.get(keys.config)
            entries, _revision = store.list_prefix(keys.subnets)
            open_to = _open_to(store, keys)
    except OverlaydError as error:
        advice = None if isinstance(error, StoreDenied) and trial.missing else error.hint
        found = Etcd(endpoints=servers, files=files, problem=error.message, advice=advice, missing_rights=trial.missing)
        return found, None, ()
    leases = tuple(published for entry in entries for published in _published(keys, entry))
    config, problem, advice = None, None, None
    try:
        config = read_network_config(raw, keys)
    except NetworkConfigError as error:
        problem, advice = error.message, error.hint
    return (
        Etcd(
            endpoints=servers,
            files=files,
            config_problem=problem,
            config_advice=advice,
            ipv6=config is not None and 6 in config.versions,
            config=f"{config} by {config.backend_type}" if config is not None else None,
            leases=leases,
            open_to=open_to,
            full=trial.full,
            missing_rights=trial.missing,
        ),
        config,
        leases,
    )


def with_containers(found: Etcd, settings: Settings, bridge: str) -> Etcd:
    """The same with which containers on a bridge reach etcd, where it is open to them."""
    if not found.open_to:
        return found
    return dataclasses.replace(found, containers=containers.who_reaches(settings.etcd_endpoints, bridge))


def _open_to(store: Store, keys: Keys) -> str | None:
    """What anybody may do there; None where etcd did not say."""
    try:
        found = openness(store, keys.config)
    except OverlaydError:
        return None
    return " and ".join(word for word, may in (("read", found.read), ("write", found.write)) if may)


def _published(keys: Keys, entry: KeyValue) -> list[Published]:
    lease = read_lease(keys, entry)
    if lease is None:
        return []
    macs = {family_lease.version: family_lease.fields().get("vtepmac") for family_lease in lease.family_leases}
    return [
        Published(
            key=keys.lease_name(entry.key),
            subnet=family_lease.subnet,
            public_ip=family_lease.public_ip,
            backend=lease.backend_type,
            mac=mac.lower() if isinstance(mac := macs[family_lease.version], str) else None,
        )
        for family_lease in lease.family_leases
    ]


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[Store]:
    store = Store.of(settings)
    try:
        yield store
    finally:
        store.close()


def _endpoints(settings: Settings) -> tuple[Endpoint, ...]:
    try:
        parsed = addresses.parse_endpoints(settings.etcd_endpoints)
    except ConfigError as error:
        shown = ",".join(settings.etcd_endpoints)
        return (Endpoint(name="(not shown)" if "@" in shown else shown, problem=error.message),)
    with ThreadPoolExecutor(max_workers=max(1, len(parsed))) as pool:
        return tuple(pool.map(lambda endpoint: _endpoint(settings, endpoint), parsed))


def _endpoint(settings: Settings, endpoint: addresses.EtcdEndpoint) -> Endpoint:
    """Whether the daemon could use this server; why not, where another look finds better words for it."""
    name = str(endpoint)
    try:
        with _store(dataclasses.replace(settings, etcd_endpoints=(name,))) as store:
            store.servers.reach(TIMEOUT_S)
    except Unresolved as error:
        return Endpoint(name=name, problem=error.message)
    except StoreError as error:
        return Endpoint(name=name, problem=tls.explain(settings, endpoint, TIMEOUT_S) or error.message)
    except OverlaydError as error:
        return Endpoint(name=name, problem=error.message)
    return Endpoint(name=name, clock_offset_s=tls.clock_offset_s(settings, endpoint, TIMEOUT_S))

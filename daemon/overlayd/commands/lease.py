"""`overlayd lease list|reserve|release`: who holds what, and what is kept for whom."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from overlayd.commands.output import print_line, print_table
from overlayd.errors import ConfigError
from overlayd.leases import previous_lease, reservations
from overlayd.leases.conflicts import HostNeed
from overlayd.leases.followed_config import read_network_config
from overlayd.leases.keys import Keys
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, IPNetwork, ip_address, ip_network
from overlayd.lib.sanitize import plain
from overlayd.settings import Settings
from overlayd.store.client import Store
from overlayd.store.protocol import KeyStore


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Print the leases, or change one."""
    store, keys = Store.of(settings), Keys(settings.etcd_prefix)
    try:
        match options.verb:
            case "list":
                return _list(store, keys, as_json=options.json)
            case "reserve":
                config = read_network_config(store.get(keys.config), keys)
                subnets, addresses = _subnets(options.subnet), _addresses(options.host)
                key = reservations.reserve(
                    store,
                    keys,
                    config,
                    subnets,
                    addresses,
                    needed=_needed(settings),
                    force=options.force,
                    own=_own(settings),
                )
                print_line(f"{subnets} is kept for {', '.join(options.host)}: {key}")
            case _:
                subnets = _subnets(options.subnet)
                key = reservations.release(store, keys, subnets, force=options.force, own=_own(settings))
                print_line(f"{subnets} is free: {key} deleted")
        return 0
    finally:
        store.close()


def _needed(settings: Settings) -> tuple[HostNeed, ...]:
    """What this host needs its own network for. Only `reserve` asks: it loads netlink, which takes a while."""
    from overlayd.underlay import host_needs  # noqa: PLC0415

    return host_needs.now(settings.etcd_endpoints)


def _own(settings: Settings) -> int:
    """The etcd lease that this host's own lease hangs on, as far as it remembers; 0 for none."""
    return previous_lease.recall(settings.state_dir, settings.subnet_env).etcd_lease_id


def _list(store: KeyStore, keys: Keys, *, as_json: bool) -> int:
    found = reservations.entries(store, keys)
    if as_json:
        print_line(json.dumps([_document(entry) for entry in found], indent=2))
        return 0
    rows = [_row(entry) for entry in found]
    print_table(("SUBNET", "HOST", "BACKEND", "ENDS IN", "NAME"), rows)
    return 0


def _row(entry: reservations.LeaseEntry) -> tuple[str, ...]:
    ends = "reserved" if entry.ends_in_s is None else str(timedelta(seconds=entry.ends_in_s))
    if entry.lease is None:
        return (plain(entry.name), "-", "-", ends, f"no lease: {entry.problem}")
    addresses = ", ".join(str(family_lease.public_ip) for family_lease in entry.lease.family_leases)
    name = entry.host.hostname if entry.host else "-"
    return (str(entry.lease.subnets), addresses, entry.lease.backend_type, ends, name)


def _document(entry: reservations.LeaseEntry) -> dict[str, Any]:
    lease = entry.lease
    return {
        "key": entry.name,
        "subnets": [str(subnet) for subnet in lease.subnets] if lease else [],
        "public_ips": [str(family_lease.public_ip) for family_lease in lease.family_leases] if lease else [],
        "backend": lease.backend_type if lease else None,
        "reserved": entry.ends_in_s is None,
        "ends_in_s": entry.ends_in_s,
        "host": entry.host.hostname if entry.host else None,
        "problem": entry.problem,
    }


def _subnets(given: Sequence[str]) -> Subnets:
    found: dict[int, IPNetwork] = {}
    for text in given:
        try:
            subnet = ip_network(text)
        except ValueError as error:
            raise ConfigError(f"{text!r} is no subnet: {error}", hint="for example 10.42.7.0/24") from None
        found[subnet.version] = subnet
    if len(found) != len(given):
        raise ConfigError(f"{' '.join(given)}: two subnets of one family", hint="give at most one of IPv4 and of IPv6")
    return Subnets.of(found.values())


def _addresses(given: Sequence[str]) -> dict[int, IPAddress]:
    try:
        return {address.version: address for address in map(ip_address, given)}
    except ValueError as error:
        raise ConfigError(f"--host: {error}", hint="the address that the host publishes: overlayd check") from None

"""`overlayd lease list|reserve|release`: leases and reservations, as an administrator sees and changes them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

from overlayd.commands.command import Command, Verb, Verbs
from overlayd.commands.output import print_line
from overlayd.errors import ConfigError
from overlayd.leases import previous_lease, reservations
from overlayd.leases.followed_config import read_network_config
from overlayd.leases.keys import Keys
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, IPNetwork, ip_address, ip_network
from overlayd.lib.sanitize import plain
from overlayd.lib.tables import columns
from overlayd.settings import Settings
from overlayd.store.client import Store


def _reserve(settings: Settings, options: argparse.Namespace) -> int:
    """Reserve a subnet for a host."""
    # It reads this host's interfaces by netlink, which the other verbs do not need.
    from overlayd.underlay import host_needs  # noqa: PLC0415

    keys = Keys(settings.etcd_prefix)
    with closing(Store.of(settings)) as store:
        config = read_network_config(store.get(keys.config), keys)
        subnets, addresses = _subnets(options.subnet), _addresses(options.host)
        key = reservations.reserve(
            store,
            keys,
            config,
            subnets,
            addresses,
            needed=host_needs.now(settings.etcd_endpoints),
            force=options.force,
            own=_own(settings),
        )
    print_line(f"{subnets} is kept for {', '.join(options.host)}: {key}")
    return 0


def _release(settings: Settings, options: argparse.Namespace) -> int:
    """Delete a lease or a reservation."""
    with closing(Store.of(settings)) as store:
        subnets = _subnets(options.subnet)
        key = reservations.release(store, Keys(settings.etcd_prefix), subnets, force=options.force, own=_own(settings))
    print_line(f"{subnets} is free: {key} deleted")
    return 0


def _own(settings: Settings) -> int:
    """The ID of the etcd lease of this host's own lease, from the record of its last run; 0 for none."""
    return previous_lease.recall(settings.state_dir, settings.subnet_env).etcd_lease_id


def _list(settings: Settings, options: argparse.Namespace) -> int:
    """Print the leases and reservations."""
    with closing(Store.of(settings)) as store:
        found = reservations.entries(store, Keys(settings.etcd_prefix))
    if options.json:
        print_line(json.dumps([_document(entry) for entry in found], indent=2))
        return 0
    titles = ("SUBNET", "HOST", "BACKEND", "ENDS IN", "NAME")
    for line in columns([titles, *map(_row, found)]):
        print_line(line)
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


def _add_list_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as one JSON document")


def _add_reserve_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subnet", nargs="+", help="10.42.7.0/24, and in a dual-stack network its IPv6 subnet too")
    parser.add_argument(
        "--host", action="append", required=True, metavar="ADDRESS", help="the address that the host publishes"
    )
    parser.add_argument("--force", action="store_true", help="also of a lease whose host may be a flannel's")


def _add_release_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subnet", nargs="+", help="the subnet, or both of a dual-stack lease")
    parser.add_argument("--force", action="store_true", help="also while its host uses it, or may use it")


COMMAND = Command(
    place=70,
    does=Verbs(
        name="lease",
        help="see who holds which subnet; keep one for a host, or free it",
        verbs=(
            Verb(
                name="list",
                help="print every lease and reservation",
                manual="",
                needs_root=None,
                needs_etcd=True,
                run=_list,
                add_flags=_add_list_flags,
            ),
            Verb(
                name="reserve",
                help="keep a subnet for a host, whether it runs or not",
                manual="",
                needs_root=None,
                needs_etcd=True,
                run=_reserve,
                add_flags=_add_reserve_flags,
            ),
            Verb(
                name="release",
                help="free a lease or a reservation",
                manual="",
                needs_root=None,
                needs_etcd=True,
                run=_release,
                add_flags=_add_release_flags,
            ),
        ),
    ),
)

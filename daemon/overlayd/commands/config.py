"""`overlayd config get|set`: the network config that all hosts share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from overlayd.commands.command import Command, Verb, Verbs
from overlayd.commands.output import print_line
from overlayd.errors import ConfigError, NetworkConfigError
from overlayd.leases.conflicts import HostNeed, Judgement, judge_network
from overlayd.leases.followed_config import read_network_config
from overlayd.leases.keys import Keys
from overlayd.leases.lease import read_lease
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.lib.addresses import ip_address, ip_network
from overlayd.settings import Settings
from overlayd.store.client import Store
from overlayd.store.protocol import KeyValue

if TYPE_CHECKING:
    from overlayd.underlay.choose import Underlay


def _get(settings: Settings, _options: argparse.Namespace) -> int:
    """Print the network config as it stands in etcd."""
    store, keys = Store.of(settings), Keys(settings.etcd_prefix)
    try:
        found = store.get(keys.config)
    finally:
        store.close()
    read_network_config(found, keys)
    if found is not None:
        print_line(found.value.decode(errors="replace"))
    return 0


def _set(settings: Settings, options: argparse.Namespace) -> int:
    """Check a network config as every daemon would, then write it.

    Whether the network holds what hosts need is judged by this host and by the leases. `--force` writes it anyway.
    """
    # They bring the backends and netlink, which `get` does not need.
    from overlayd.host.backend import load_backend, unknown_keys  # noqa: PLC0415
    from overlayd.underlay import host_needs  # noqa: PLC0415

    force: bool = options.force
    raw = _read_config(options.config)
    config = parse_network_config(raw)
    backend = load_backend(config, _any_underlay())
    for problem, known in () if force else unknown_keys(config):
        raise NetworkConfigError(problem, hint=f"known: {known}")
    store, keys = Store.of(settings), Keys(settings.etcd_prefix)
    try:
        leased, _revision = store.list_prefix(keys.subnets)
        needs = (*host_needs.now(settings.etcd_endpoints), *_peers(keys, leased))
        found = judge_network(config, needs, one_route=backend.facts.one_route)
        if not force and (found.refusals or found.remarks):
            raise ConfigError(
                "\n  ".join(found.lines()),
                hint=f"{Judgement.HINT}; or write it all the same, with --force",
            )
        store.put(keys.config, json.dumps(json.loads(raw)).encode())
    finally:
        store.close()
    print_line(f"{keys.config} written: {_summary(config)}; {len(leased)} hosts hold a lease and follow")
    return 0


def _peers(keys: Keys, leased: Collection[KeyValue]) -> Iterator[HostNeed]:
    """The public addresses of hosts that hold a lease."""
    for entry in leased:
        lease = read_lease(keys, entry)
        for family_lease in lease.family_leases if lease else ():
            yield HostNeed(network=ip_network(family_lease.public_ip), what="the public address of a host,")


def _any_underlay() -> Underlay:
    # Whoever writes the config need not be on a host of the network; only the config's own sense is checked here.
    from overlayd.underlay.choose import Underlay, UnderlayEndpoint  # noqa: PLC0415

    v4, v6 = (UnderlayEndpoint(address=one, public_ip=one) for one in map(ip_address, ("192.0.2.1", "2001:db8::1")))
    return Underlay(ifname="lo", ifindex=1, mtu_bytes=65535, reason="for the check only", v4=v4, v6=v6)


def _read_config(given: str) -> str:
    if given.lstrip().startswith("{"):
        return given
    try:
        return sys.stdin.read() if given == "-" else Path(given).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"network config: {given!r} is neither JSON nor a readable file: {error}") from error


def _summary(config: NetworkConfig) -> str:
    pools = " and ".join(
        f"{pool.network} in {pool.subnet_count()} subnets of /{pool.subnet_len}" for pool in config.pools
    )
    return f"{pools}, backend {config.backend_type}"


def _add_set_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="JSON, or the name of a file that holds it, or - for standard input")
    parser.add_argument(
        "--force",
        action="store_true",
        help="also if the network holds addresses that hosts need, or with keys that no host reads",
    )


COMMAND = Command(
    place=80,
    does=Verbs(
        name="config",
        help="read or write the network config in etcd",
        verbs=(
            Verb(
                name="get",
                help="print the network config",
                manual="",
                needs_root=None,
                needs_etcd=True,
                run=_get,
            ),
            Verb(
                name="set",
                help="check a network config and write it",
                manual="CONFIG is JSON, or the name of a file that holds it, or `-` for standard input. The hosts of "
                "the network follow at once.",
                needs_root=None,
                needs_etcd=True,
                run=_set,
                add_flags=_add_set_flags,
            ),
        ),
    ),
)

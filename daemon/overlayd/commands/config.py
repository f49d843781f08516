"""`overlayd config get|set`: the network config that all hosts share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from overlayd.commands.output import print_line
from overlayd.errors import ConfigError, NetworkConfigError
from overlayd.host.backend import load_backend, unknown_keys
from overlayd.leases.conflicts import HostNeed, Judgement, judge_network
from overlayd.leases.followed_config import read_network_config
from overlayd.leases.keys import Keys
from overlayd.leases.lease import read_lease
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.lib.addresses import ip_address, ip_network
from overlayd.settings import Settings
from overlayd.store.client import Store
from overlayd.store.protocol import KeyValue
from overlayd.underlay import host_needs
from overlayd.underlay.choose import Underlay, UnderlayEndpoint


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Print the network config, or check one and write it."""
    return _get(settings) if options.verb == "get" else _set(settings, options.config, force=options.force)


def _get(settings: Settings) -> int:
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


def _set(settings: Settings, given: str, *, force: bool) -> int:
    """Check a network config as every daemon would, then write it.

    What it would take from hosts is judged by this one, and by what leases say; others may know better, with `force`.
    """
    raw = _read_config(given)
    config = parse_network_config(raw)
    backend = load_backend(config, _any_underlay())
    for problem, known in () if force else unknown_keys(config):
        raise NetworkConfigError(problem, hint=f"known: {known}")
    store, keys = Store.of(settings), Keys(settings.etcd_prefix)
    try:
        leased, _revision = store.list_prefix(keys.subnets)
        needs = (*host_needs.now(settings.etcd_endpoints), *_peers(keys, leased))
        found = judge_network(config, needs, one_route=backend.one_route)
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

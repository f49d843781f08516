"""`overlayd check`: everything that `run` finds out before it changes anything."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from overlayd.backends.backend import Backend
from overlayd.backends.facts import BackendFacts
from overlayd.commands.command import Command, Verb
from overlayd.commands.output import print_fields, print_line
from overlayd.docker.dockerd_config import read_dockerd_config
from overlayd.doctor.gather.host import device_feature
from overlayd.host.backend import backend_here, unknown_keys
from overlayd.leases.conflicts import CurrentNeeds, judge_network, without_container_bridge
from overlayd.leases.followed_config import read_network_config
from overlayd.leases.keys import Keys
from overlayd.leases.lease import read_lease
from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.addresses import IPNetwork
from overlayd.settings import Settings
from overlayd.store.client import Store
from overlayd.store.protocol import KeyValue
from overlayd.underlay import host_needs
from overlayd.underlay.choose import Underlay
from overlayd.underlay.watch import choose_underlay


def main(settings: Settings, _options: argparse.Namespace) -> int:
    """Print all that `run` would find out before it changes anything. Fails as `run` would."""
    # First, as it refuses endpoints that hold a password, which would be printed below.
    store = Store.of(settings)
    print_fields("settings", _shown(settings))
    underlay = choose_underlay(settings)
    print_fields(
        "underlay",
        {
            "interface": f"{underlay.ifname} ({underlay.reason})",
            "public ip": ", ".join(str(endpoint.public_ip) for endpoint in underlay.endpoints),
            "mtu": underlay.mtu_bytes,
        },
    )
    keys = Keys(settings.etcd_prefix)
    try:
        config = read_network_config(store.get(keys.config), keys)
        leases, revision = store.list_prefix(keys.subnets)
    finally:
        store.close()
    here = CurrentNeeds(needed=host_needs.now(settings.etcd_endpoints))
    backend = backend_here(settings, config, underlay, here)
    print_fields(
        "network",
        {
            "network": config,
            "subnets": "; ".join(
                f"{pool.subnet_count()} of /{pool.subnet_len}, {pool.subnet_min} to {pool.subnet_max}"
                for pool in config.pools
            ),
            "leased": f"{len(leases)} at etcd revision {revision}",
            "backend": f"{config.backend_type} {json.dumps(_without_secrets(backend.facts, config.backend_config))}",
            "devices": ", ".join(backend.devices),
            "container mtu": backend.mtu_bytes,
        },
    )
    print_fields("needs", _needs(settings, config, backend))
    problems = [*read_dockerd_config().problems, *(text for text, _known in unknown_keys(config))]
    needs = without_container_bridge(here.needed, underlay.ifname, held=_held(keys, leases, underlay))
    problems += judge_network(config, needs, one_route=backend.facts.one_route).remarks
    for problem in problems:
        print_line(f"warning: {problem}")
    return 0


def _held(keys: Keys, leases: Iterable[KeyValue], underlay: Underlay) -> Iterator[IPNetwork]:
    """The subnets that are leased under this host's addresses."""
    own = {endpoint.public_ip for endpoint in underlay.endpoints}
    for entry in leases:
        lease = read_lease(keys, entry)
        for family_lease in lease.family_leases if lease else ():
            if family_lease.public_ip in own:
                yield family_lease.subnet


def _without_secrets(facts: BackendFacts, config: Mapping[str, Any]) -> dict[str, Any]:
    secrets = {key.name.lower() for key in facts.keys if key.secret}
    return {key: "(not shown)" if key.lower() in secrets else value for key, value in config.items()}


def _needs(settings: Settings, config: NetworkConfig, backend: Backend) -> dict[str, object]:
    """What the backend needs of the kernel and of the firewalls on this host."""
    device = backend.facts.device_kind
    feature = device_feature(device) if device else None
    preferred = "nftables" if config.nftables else "iptables"
    return {
        "kernel": f"{device} devices: {feature.how}" if feature else "nothing that not every kernel has",
        "firewall": f"{settings.firewall}, {preferred} first" if settings.firewall == "auto" else settings.firewall,
        "let in": ", ".join(map(str, backend.listens)) or "nothing from the underlay to this host",
    }


def _shown(settings: Settings) -> dict[str, object]:
    shown: dict[str, object] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value and field.metadata["secret"]:
            value = "(not shown)"
        if field.name == "etcd_prefix":
            value = value or "/"
        shown[field.name.replace("_", "-")] = ",".join(value) if isinstance(value, tuple) else value
    return shown


COMMAND = Command(
    place=20,
    does=Verb(
        name="check",
        help="show the settings in force, the interface, etcd and the network config; change nothing",
        manual="All that `run` finds out before it changes anything; it fails as `run` would.",
        needs_root=None,
        needs_etcd=True,
        run=main,
    ),
)

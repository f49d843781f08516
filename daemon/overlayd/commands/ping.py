"""`overlayd ping`: whether every peer's host and containers answer, how fast, and how large a packet may be."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import replace

from overlayd.commands.command import Command, Verb
from overlayd.commands.output import print_line
from overlayd.errors import ConfigError, OverlaydError, StoreError, UnsupportedError
from overlayd.host.backend import load_backend
from overlayd.kernel import interfaces
from overlayd.leases.followed_config import read_network_config
from overlayd.leases.keys import Keys
from overlayd.leases.lease import read_lease
from overlayd.monitoring import status_file
from overlayd.probe.container_sockets import COMMAND_TIMEOUT_S, ContainerSockets
from overlayd.probe.peers import Address, KnownPeer, LocalHost, chosen, describe_source, known, targets
from overlayd.probe.ping import measure
from overlayd.probe.report import document, table
from overlayd.settings import Settings
from overlayd.store.client import Store
from overlayd.underlay.watch import choose_underlay


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Ping all peers, or those named; 0 when containers of each answer and take packets of the full size.

    Of a peer of which no container is known, its host inside the overlay has to answer.
    """
    here, peers = _from_daemon(settings) or _from_etcd(settings)
    with contextlib.closing(ContainerSockets(timeout_s=COMMAND_TIMEOUT_S)) as container_sockets:
        here = replace(here, containers=container_sockets.containers(here.subnets))
        found = measure(
            targets(chosen(peers, options.peers), here),
            count=options.count,
            timeout_s=options.timeout,
            sizes=not options.no_mtu,
        )
        source = describe_source(here, container_sockets.problem, container_sockets.bridge)
    if options.json:
        print_line(json.dumps({**document(found), "measured_from": source}, indent=2))
    elif found:
        for line in table(found):
            print_line(line)
        print_line(f"containers are asked from {source}")
    else:
        print_line("no peers: no other host holds a lease")
    return 0 if all(peer.well for peer in found) else 1


def _from_daemon(settings: Settings) -> tuple[LocalHost, list[KnownPeer]] | None:
    """What the daemon on this host says; None where none runs or it holds no lease yet."""
    try:
        status = status_file.read(settings.run_dir)
    except OverlaydError:
        return None
    if not status_file.alive(status):
        return None
    return known(status, interfaces.own_addresses()) if status.subnet or status.subnet6 else None


def _from_etcd(settings: Settings) -> tuple[LocalHost, list[KnownPeer]]:
    """What etcd says of this network; this host's own lease, if it has one, is the one under its address."""
    store = Store.of(settings)
    keys = Keys(settings.etcd_prefix)
    try:
        config = read_network_config(store.get(keys.config), keys)
        entries, _revision = store.list_prefix(keys.subnets)
    except StoreError as error:
        raise StoreError(f"no daemon runs here, and {error.message}", hint=error.hint) from error
    finally:
        store.close()
    mtu_bytes, own = None, frozenset[Address]()
    # A host outside the network may ask too; only the size of packets is not known there.
    with contextlib.suppress(ConfigError, StoreError, UnsupportedError):
        underlay = choose_underlay(settings).only(config.versions)
        own = frozenset(endpoint.public_ip for endpoint in underlay.endpoints)
        mtu_bytes = load_backend(config, underlay).mtu_bytes
    leases = [lease for entry in entries if (lease := read_lease(keys, entry)) is not None]
    here = LocalHost(
        subnets=tuple(
            family_lease.subnet
            for lease in leases
            for family_lease in lease.family_leases
            if family_lease.public_ip in own
        ),
        addresses=interfaces.own_addresses(),
        mtu_bytes=mtu_bytes,
    )
    peers = [
        KnownPeer(subnet=family_lease.subnet, public_ip=family_lease.public_ip, backend=lease.backend_type)
        for lease in leases
        for family_lease in lease.family_leases
        if family_lease.public_ip not in own
    ]
    return here, peers


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("peers", nargs="*", metavar="PEER", help="a public address, a subnet, or an address inside it")
    parser.add_argument("--json", action="store_true", help="as one JSON document")
    parser.add_argument("--count", type=_count, default=3, help="echoes to each (default: 3)")
    parser.add_argument("--timeout", type=_seconds, default=1.0, help="seconds to wait for each (default: 1)")
    parser.add_argument("--no-mtu", action="store_true", help="do not look for the path's MTU")


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 100:
        raise argparse.ArgumentTypeError("a whole number from 1 to 100")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number <= 60:
        raise argparse.ArgumentTypeError("a number of seconds above 0, at most 60")
    return number


COMMAND = Command(
    place=50,
    does=Verb(
        name="ping",
        help="ask every peer: does it answer, how fast, how large a packet may be",
        manual="Each peer is asked by the underlay, its host by the overlay, and a container of it from a container "
        "here, by the way that containers' own packets go. Without root, or a container on docker0, this host itself "
        "asks.",
        needs_root=None,
        needs_etcd=False,
        run=main,
        add_flags=_add_flags,
        without_settings=True,
    ),
)

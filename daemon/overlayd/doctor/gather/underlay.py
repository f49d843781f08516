"""The underlay interface, and what other hosts and programs do with it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from overlayd.doctor.facts import NetworkFacts, PublishedLease, ReturnRoute, UnderlayFacts
from overlayd.errors import CommandFailed, ConfigError
from overlayd.kernel import arp, ethtool, interfaces
from overlayd.lib import process
from overlayd.settings import Settings
from overlayd.underlay.watch import choose_underlay

# Return routes to so many peers are looked up; they seldom differ.
PEERS_AT_MOST = 64


def read_underlay(settings: Settings) -> UnderlayFacts:
    """The interface that the settings choose, or why they choose none."""
    try:
        chosen = choose_underlay(settings)
    except ConfigError as error:
        return UnderlayFacts(problem=error.message, advice=error.hint)
    v4, v6 = chosen.endpoint(4), chosen.endpoint(6)
    first = v4 or v6
    return UnderlayFacts(
        ifname=chosen.ifname,
        address=first.address if first else None,
        public_ip=v4.public_ip if v4 else None,
        public_ip6=v6.public_ip if v6 else None,
        driver=ethtool.driver(chosen.ifname),
        offloads=ethtool.offloads(chosen.ifname),
    )


def read_surroundings(
    underlay: UnderlayFacts, network: NetworkFacts | None, leases: Sequence[PublishedLease], *, ask: bool
) -> UnderlayFacts:
    """The same facts with who else has our address, who manages our devices, and by which routes peers are answered."""
    if underlay.address is None:
        return underlay
    return replace(
        underlay,
        same_address=arp.others_with(underlay.address, underlay.ifname)
        if ask and isinstance(underlay.address, IPv4Address)
        else None,
        managers=_managers(network.own_devices) if network is not None else {},
        return_routes=tuple(
            route
            for lease in leases[:PEERS_AT_MOST]
            if lease.public_ip not in underlay.public_ips and (route := _return_route(lease)) is not None
        ),
    )


def _return_route(lease: PublishedLease) -> ReturnRoute | None:
    # Only IPv4 has rp_filter.
    public, inside = lease.public_ip, lease.subnet.network_address + 2
    if not isinstance(public, IPv4Address) or not isinstance(inside, IPv4Address):
        return None
    return ReturnRoute(peer=public, underlay=_interface_towards(public), overlay=_interface_towards(inside))


def _interface_towards(address: IPv4Address) -> str | None:
    answer = interfaces.route_to(address)
    try:
        return None if answer is None else socket.if_indextoname(answer.ifindex)
    except OSError:
        return None


def _managers(devices: Sequence[str]) -> dict[str, str]:
    """Which of our devices another program manages, and which program that is."""
    found = {}
    for name, state in _columns(["nmcli", "-t", "-f", "DEVICE,STATE", "device"], ":", 0, 1):
        if name in devices and state != "unmanaged":
            found[name] = "NetworkManager"
    for name, state in _columns(["networkctl", "--no-legend", "--no-pager", "list"], None, 1, 4):
        if name in devices and state in ("configured", "configuring", "pending", "failed"):
            found[name] = "networkd"
    return found


def _columns(argv: list[str], separator: str | None, first: int, second: int) -> list[tuple[str, str]]:
    try:
        lines = process.run(argv, timeout_s=5).splitlines()
    except CommandFailed:
        return []
    words = [line.split(separator) for line in lines]
    return [(row[first], row[second]) for row in words if len(row) > max(first, second)]

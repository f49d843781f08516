"""The underlay interface, and what other hosts and programs do with it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from overlayd.doctor.facts import NetworkFacts, PublishedLease, ReturnRoute, UnderlayFacts
from overlayd.errors import CommandFailed, CommandTimedOut, ConfigError
from overlayd.kernel import arp, ethtool, interfaces
from overlayd.lib import process
from overlayd.lib.quick_dataclass import dataclass
from overlayd.settings import Settings
from overlayd.underlay.watch import choose_underlay

# networkctl of a host that confines it can take half a minute; nobody waits that long for one line of many.
_ANSWERS_S = 5.0


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """How a program lists the devices that it knows: the columns of the device and of its state."""

    argv: tuple[str, ...]
    separator: str | None
    device: int
    state: int
    manages: Callable[[str], bool]


_LISTED = {
    "NetworkManager": _Listed(
        argv=("nmcli", "-t", "-f", "DEVICE,STATE", "device"),
        separator=":",
        device=0,
        state=1,
        manages=lambda state: state != "unmanaged",
    ),
    "networkd": _Listed(
        argv=("networkctl", "--no-legend", "--no-pager", "list"),
        separator=None,
        device=1,
        state=4,
        manages=lambda state: state in ("configured", "configuring", "pending", "failed"),
    ),
}
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
    managers, silent = managers_of(network.own_devices) if network is not None else ({}, ())
    return replace(
        underlay,
        same_address=arp.others_with(underlay.address, underlay.ifname)
        if ask and isinstance(underlay.address, IPv4Address)
        else None,
        managers=managers,
        silent_managers=silent,
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


def managers_of(devices: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which of our devices another program manages, and which program that is; and the programs that did not say."""
    found, silent = {}, list[str]()
    for manager, listed in _LISTED.items():
        try:
            lines = process.run(listed.argv, timeout_s=_ANSWERS_S).splitlines()
        except CommandTimedOut:
            silent.append(manager)
            continue
        except CommandFailed:
            # It is not here, or does not run.
            continue
        for row in (line.split(listed.separator) for line in lines):
            if len(row) > listed.state and row[listed.device] in devices and listed.manages(row[listed.state]):
                found[row[listed.device]] = manager
    return found, tuple(silent)

"""What firewalld has to let through, as a value. Pure: no I/O.

All of it lives in two policies and two ipsets of our own, which the RPM ships empty in /usr/lib/firewalld and which
only overlayd fills, at runtime. Zones, and so what is the administrator's or Docker's, stay as they are:

- A device in the zone `trusted` may go everywhere, to every port of this host too. Here containers get as far as
  containers, and no farther.
- host-gw has no device of its own to put into a zone, and a zone's rich rules are for packets to the host only. A
  policy's are for forwarded ones as well.
- firewalld can make neither zones, policies nor ipsets at runtime, but fill those it knows (firewalld.dbus(5)).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from overlayd.backends.listening import Listening
from overlayd.firewall.rules import Overlay
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.marks import ours


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The rich rules of each of our policies, and the entries of each of our ipsets."""

    policies: Mapping[str, frozenset[str]]
    ipsets: Mapping[str, frozenset[str]]


def forward_policy() -> str:
    """The policy for what passes this host: from any zone to any zone."""
    return f"{ours().name}-forward"


def input_policy() -> str:
    """The policy for what is for this host: from any zone to HOST."""
    return f"{ours().name}-input"


def peers_ipset(version: int) -> str:
    """The ipset of peers' public addresses of an IP version."""
    return f"{ours().name}-peers{version if version == 6 else ''}"


def nothing() -> Runtime:
    """All of it empty."""
    return Runtime(
        policies=dict.fromkeys((forward_policy(), input_policy()), frozenset()),
        ipsets={peers_ipset(version): frozenset() for version in (4, 6)},
    )


def desired(
    *,
    overlays: Collection[Overlay],
    listens: Collection[Listening],
    peers: Collection[IPAddress],
    trusted: Collection[IPNetwork] = (),
) -> Runtime:
    """What a host needs that holds these subnets and takes `listens` from these public addresses.

    `trusted` networks may reach containers by their own addresses. Rules stand as firewalld prints them, to be compared
    as text.
    """
    forward = {rule for overlay in overlays for rule in _forward(overlay.network, overlay.subnet)}
    for overlay in overlays:
        for one in trusted:
            if one.version == overlay.network.version:
                forward |= {*_forward(one, overlay.network)}
    return Runtime(
        policies={forward_policy(): frozenset(forward), input_policy(): frozenset(map(_listen, listens))},
        ipsets={
            peers_ipset(version): frozenset(str(peer) for peer in peers if peer.version == version)
            for version in (4, 6)
        },
    )


def _forward(network: IPNetwork, subnet: IPNetwork) -> tuple[str, str]:
    family = _family(network.version)
    return (
        f'rule {family} source address="{network}" destination address="{subnet}" accept',
        f'rule {family} source address="{subnet}" destination address="{network}" accept',
    )


def _listen(listening: Listening) -> str:
    # Addresses go into a set: with a rule for each of a thousand peers firewalld would be busy for a minute.
    source = f"rule {_family(listening.version)}"
    if not listening.anyone:
        source += f' source ipset="{peers_ipset(listening.version)}"'
    if listening.port is None:
        return f'{source} protocol value="{listening.protocol}" accept'
    return f'{source} port port="{listening.port}" protocol="{listening.protocol}" accept'


def _family(version: int) -> str:
    return f'family="ipv{version}"'

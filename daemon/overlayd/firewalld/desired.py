"""What firewalld has to accept, as a value. Pure: no I/O.

The RPM installs two policies and two ipsets of our own, empty, in /usr/lib/firewalld. overlayd fills them at runtime.
Zones are not changed: they belong to the administrator or to Docker. The reasons for policies:

- Packets from a device in the zone `trusted` may go everywhere, also to every port of this host. Our rules accept
  packets from containers to containers only.
- host-gw has no device of its own for a zone, and the rich rules of a zone match packets to the host only. Those of a
  policy match forwarded packets too.
- At runtime firewalld makes no new zones, policies or ipsets. It fills existing ones (firewalld.dbus(5)).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache

from overlayd.backends.listening import Listening
from overlayd.firewall.rules import Overlay
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.marks import ours
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The rich rules of each of our policies, and the entries of each of our ipsets."""

    policies: Mapping[str, frozenset[str]]
    ipsets: Mapping[str, frozenset[str]]


def forward_policy() -> str:
    """The policy for forwarded packets: from any zone to any zone."""
    return f"{ours().name}-forward"


def input_policy() -> str:
    """The policy for packets to this host: from any zone to HOST."""
    return f"{ours().name}-input"


def peers_ipset(version: int) -> str:
    """The ipset of peers' public addresses of an IP version."""
    return f"{ours().name}-peers{version if version == 6 else ''}"


def nothing() -> Runtime:
    """The runtime configuration with our policies and ipsets empty."""
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
    """The configuration for a host with these overlays whose backend receives `listens` from these public addresses.

    `trusted` networks may reach containers by their own addresses. Rules are spelled as firewalld prints them, so that
    they compare as text.
    """
    forward = {rule for overlay in overlays for rule in _forward(overlay.network, overlay.subnet)}
    for overlay in overlays:
        for one in trusted:
            if one.version == overlay.network.version:
                forward |= {*_forward(one, overlay.network)}
    return Runtime(
        policies={forward_policy(): frozenset(forward), input_policy(): frozenset(map(_listen, listens))},
        ipsets={peers_ipset(version): _as_text(frozenset(peers), version) for version in (4, 6)},
    )


@lru_cache(maxsize=4)
def _as_text(peers: frozenset[IPAddress], version: int) -> frozenset[str]:
    """The same thousands are asked for again and again."""
    return frozenset(str(peer) for peer in peers if peer.version == version)


def _forward(network: IPNetwork, subnet: IPNetwork) -> tuple[str, str]:
    family = _family(network.version)
    return (
        f'rule {family} source address="{network}" destination address="{subnet}" accept',
        f'rule {family} source address="{subnet}" destination address="{network}" accept',
    )


def _listen(listening: Listening) -> str:
    # Peers' addresses are in an ipset: rules for a thousand peers would take firewalld a minute.
    source = f"rule {_family(listening.version)}"
    if not listening.anyone:
        source += f' source ipset="{peers_ipset(listening.version)}"'
    if listening.port is None:
        return f'{source} protocol value="{listening.protocol}" accept'
    return f'{source} port port="{listening.port}" protocol="{listening.protocol}" accept'


def _family(version: int) -> str:
    return f'family="ipv{version}"'

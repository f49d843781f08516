"""The rules that the overlay needs, as values. Pure: no I/O.

Rules are written word for word as `iptables-save` prints them: what is there and what should be compare as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network

# Every rule carries it, and every chain of ours begins with the prefix: nothing else is ever deleted.
COMMENT = "-m comment --comment overlayd"
PREFIX = "OVERLAYD-"
DOCKER_BRIDGE = "docker0"
MULTICAST = "224.0.0.0/4"
# Set on packets that something else has already decided to masquerade.
FOREIGN_MARK = "0x4000/0x4000"


class Place(Enum):
    """Where in a chain of somebody else's our jump has to stand."""

    FIRST = "before every other rule"
    LAST = "after every other rule, but before a closing verdict"
    ANYWHERE = "once, at the end if it is new"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One chain of ours with its rules in order, without the `-A NAME` in front."""

    table: str
    name: str
    rules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A rule in a chain of somebody else's that leads to one of ours.

    `closing` are the verdicts which, standing without a condition, end the chain for everything (for Place.LAST).
    `instead` takes this one's place where `chain` does not exist.
    """

    table: str
    chain: str
    to: str
    place: Place
    closing: tuple[str, ...] = ()
    instead: Jump | None = None

    @property
    def rule(self) -> str:
        """The jump as `iptables-save` prints it, without the `-A NAME` in front."""
        return f"{COMMENT} -j {self.to}"


@dataclass(frozen=True, kw_only=True)
class Ruleset:
    """All the rules that should be there, and how packets get to them."""

    chains: tuple[Chain, ...] = ()
    jumps: tuple[Jump, ...] = ()


def desired(
    *,
    network: IPv4Network,
    subnet: IPv4Network,
    devices: Sequence[str],
    masquerade: bool,
    forward: bool = True,
) -> Ruleset:
    """The rules for a host that holds `subnet` of `network`; on `devices` packets from peers' containers arrive.

    Masquerading is flannel's, in flannel's order. The rest opens what stock Docker closes: from 28.2 its raw table
    drops whatever is for a container and did not come from its bridge, from 28.0 its filter table does too; each needs
    a door of its own, and in the filter table that is DOCKER-USER: an administrator's own drops there still win.
    """
    chains: list[Chain] = []
    jumps: list[Jump] = []
    if masquerade:
        chain = Chain(table="nat", name=f"{PREFIX}POSTROUTING", rules=_masquerading(network, subnet))
        chains.append(chain)
        jumps.append(Jump(table="nat", chain="POSTROUTING", to=chain.name, place=Place.ANYWHERE))
    if forward:
        chain = Chain(
            table="filter",
            name=f"{PREFIX}FORWARD",
            rules=(f"-s {network} {COMMENT} -j ACCEPT", f"-d {network} {COMMENT} -j ACCEPT"),
        )
        chains.append(chain)
        closing = ("DROP", "REJECT")
        jumps.append(Jump(table="filter", chain="FORWARD", to=chain.name, place=Place.LAST, closing=closing))
    within = f"-s {network} -d {network}"
    chain = Chain(
        table="filter",
        name=f"{PREFIX}DOCKER",
        rules=tuple(f"{within} -i {device} -o {DOCKER_BRIDGE} {COMMENT} -j ACCEPT" for device in devices),
    )
    chains.append(chain)
    jumps.append(
        Jump(
            table="filter",
            chain="DOCKER-USER",
            to=chain.name,
            place=Place.LAST,
            closing=("RETURN",),
            # Docker before 17.06, or one that has yet to start.
            instead=Jump(table="filter", chain="FORWARD", to=chain.name, place=Place.FIRST),
        )
    )
    chain = Chain(
        table="raw",
        name=f"{PREFIX}PREROUTING",
        rules=tuple(f"{within} -i {device} {COMMENT} -j ACCEPT" for device in devices),
    )
    chains.append(chain)
    jumps.append(Jump(table="raw", chain="PREROUTING", to=chain.name, place=Place.FIRST))
    return Ruleset(chains=tuple(chains), jumps=tuple(jumps))


def _masquerading(network: IPv4Network, subnet: IPv4Network) -> tuple[str, ...]:
    return (
        f"-m mark --mark {FOREIGN_MARK} {COMMENT} -j RETURN",
        f"-s {subnet} -d {network} {COMMENT} -j RETURN",
        f"-s {network} -d {subnet} {COMMENT} -j RETURN",
        f"! -s {network} -d {subnet} {COMMENT} -j RETURN",
        f"-s {network} ! -d {MULTICAST} {COMMENT} -j MASQUERADE --random-fully",
        f"! -s {network} -d {network} {COMMENT} -j MASQUERADE --random-fully",
    )

"""The rules for iptables and ip6tables, as values. Pure: no I/O.

Rules are written word for word as `iptables-save` prints them: what is there and what should be compare as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from overlayd.firewall.rules import DOCKER_BRIDGE, MASQUERADED_ELSEWHERE, MULTICAST, Overlay, Wanted

# Every rule carries it, and every chain of ours begins with the prefix: nothing else is ever deleted.
COMMENT = "-m comment --comment overlayd"
PREFIX = "OVERLAYD-"


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
    """All the rules of one IP version that should be there, and how packets get to them."""

    chains: tuple[Chain, ...] = ()
    jumps: tuple[Jump, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A chain of ours with its jump, or nothing at all where it would have no rules."""

    chain: Chain
    jump: Jump


def ruleset(wanted: Wanted, version: int, *, doors_only: bool = False) -> Ruleset:
    """The iptables rules of one IP version; none where there is no overlay of it.

    Masquerading is flannel's, in flannel's order. The rest opens what stock Docker closes: from 28.2 its raw table
    drops whatever is for a container and did not come from its bridge, from 28.0 its filter table does too; each needs
    a door of its own, and in the filter table that is DOCKER-USER: an administrator's own drops there still win.
    `doors_only` leaves out what an nftables table does as well as iptables (table.py).
    """
    overlay = wanted.overlay(version)
    if overlay is None:
        return Ruleset()
    parts = [*_forward(wanted, overlay), _docker_user(wanted, overlay), _raw(wanted, overlay, guard=not doors_only)]
    if not doors_only:
        parts = [*_masquerading(wanted, overlay), *parts, *_marking(wanted, overlay)]
    parts = [part for part in parts if part.chain.rules]
    return Ruleset(chains=tuple(part.chain for part in parts), jumps=tuple(part.jump for part in parts))


def _masquerading(wanted: Wanted, overlay: Overlay) -> list[_Part]:
    if not wanted.masquerade:
        return []
    network, subnet = overlay.network, overlay.subnet
    mark = f"{MASQUERADED_ELSEWHERE:#x}"
    rules = (
        f"-m mark --mark {mark}/{mark} {COMMENT} -j RETURN",
        f"-s {subnet} -d {network} {COMMENT} -j RETURN",
        f"-s {network} -d {subnet} {COMMENT} -j RETURN",
        f"! -s {network} -d {subnet} {COMMENT} -j RETURN",
        f"-s {network} ! -d {MULTICAST[network.version]} {COMMENT} -j MASQUERADE --random-fully",
        f"! -s {network} -d {network} {COMMENT} -j MASQUERADE --random-fully",
    )
    return [_part("nat", "POSTROUTING", rules, Place.ANYWHERE)]


def _forward(wanted: Wanted, overlay: Overlay) -> list[_Part]:
    if not wanted.forward:
        return []
    rules = (f"-s {overlay.network} {COMMENT} -j ACCEPT", f"-d {overlay.network} {COMMENT} -j ACCEPT")
    return [_part("filter", "FORWARD", rules, Place.LAST, closing=("DROP", "REJECT"))]


def _docker_user(wanted: Wanted, overlay: Overlay) -> _Part:
    rules = tuple(f"{_within(overlay)} -i {device} -o {DOCKER_BRIDGE} {COMMENT} -j ACCEPT" for device in wanted.devices)
    chain = Chain(table="filter", name=f"{PREFIX}DOCKER", rules=rules)
    jump = Jump(
        table="filter",
        chain="DOCKER-USER",
        to=chain.name,
        place=Place.LAST,
        closing=("RETURN",),
        # Docker before 17.06, or one that has yet to start.
        instead=Jump(table="filter", chain="FORWARD", to=chain.name, place=Place.FIRST),
    )
    return _Part(chain=chain, jump=jump)


def _raw(wanted: Wanted, overlay: Overlay, *, guard: bool) -> _Part:
    rules = [f"{_within(overlay)} -i {device} {COMMENT} -j ACCEPT" for device in wanted.devices]
    if guard and (wanted.guard or wanted.imposters):
        # The host itself reaches its own addresses by the loopback.
        rules.append(f"-d {overlay.subnet} -i lo {COMMENT} -j ACCEPT")
        source = "" if wanted.guard else f"-s {overlay.network} "
        rules.append(f"{source}-d {overlay.subnet} ! -i {DOCKER_BRIDGE} {COMMENT} -j DROP")
    return _part("raw", "PREROUTING", tuple(rules), Place.FIRST)


def _marking(wanted: Wanted, overlay: Overlay) -> list[_Part]:
    if wanted.mark is None:
        return []
    rules = tuple(
        f"{_within(overlay)} -i {device} -o {DOCKER_BRIDGE} {COMMENT} -j MARK --set-xmark {wanted.mark}"
        for device in wanted.devices
    )
    # mangle comes before filter in this hook, and routing, which may look at marks, is over.
    return [_part("mangle", "FORWARD", rules, Place.ANYWHERE)]


def _within(overlay: Overlay) -> str:
    return f"-s {overlay.network} -d {overlay.network}"


def _part(table: str, chain: str, rules: tuple[str, ...], place: Place, closing: tuple[str, ...] = ()) -> _Part:
    ours = Chain(table=table, name=f"{PREFIX}{chain}", rules=rules)
    return _Part(chain=ours, jump=Jump(table=table, chain=chain, to=ours.name, place=place, closing=closing))

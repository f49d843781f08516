"""The rules for iptables and ip6tables, as values. Pure: no I/O.

Rules are written word for word as `iptables-save` prints them: what is there and what should be compare as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from overlayd.firewall.rules import MASQUERADED_ELSEWHERE, MULTICAST, DesiredRules, Overlay
from overlayd.firewall.strangers import ACCEPT, RETURN, FilterRule, accept_rules, strangers
from overlayd.lib.marks import ours

_FROM_LEASED = re.compile(r"-m set --match-set OVERLAYD\d?-LEASED[46] src ")


class Place(Enum):
    """Where in a chain of somebody else's our jump has to stand."""

    FIRST = "before every other rule"
    LAST = "after every other rule, but before a closing verdict"
    ANYWHERE = "once, at the end if it is new"


@dataclass(frozen=True, kw_only=True)
class IptablesChain:
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
        return f"{ours().comment} -j {self.to}"


@dataclass(frozen=True, kw_only=True)
class Ruleset:
    """All the rules of one IP version that should be there, and how packets get to them."""

    chains: tuple[IptablesChain, ...] = ()
    jumps: tuple[Jump, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A chain of ours with its jump, or nothing at all where it would have no rules."""

    chain: IptablesChain
    jump: Jump


def ruleset(wanted: DesiredRules, version: int, *, accepts_only: bool = False) -> Ruleset:
    """The iptables rules of one IP version; none where there is no overlay of it.

    Masquerading is flannel's, in flannel's order. The rest opens what stock Docker closes: from 28.2 its raw table
    drops whatever is for a container and did not come from its bridge, from 28.0 its filter table does too; each needs
    a door of its own, and in the filter table that is DOCKER-USER: an administrator's own drops there still win. And it
    keeps strangers out (strangers.py). `doors_only` leaves out what an nftables table does as well as iptables
    (table.py): there, to this host's own ports, an administrator's accept would not win.
    """
    overlay = wanted.overlay(version)
    if overlay is None:
        return Ruleset()
    kept_out = strangers(wanted, version)
    early = kept_out.early if not accepts_only else tuple(one for one in kept_out.early if one.verdict != "drop")
    parts = [
        *_forward(wanted, overlay),
        _docker_user(wanted, overlay),
        _part("raw", "PREROUTING", _written(early, version), Place.FIRST),
        _part("filter", "INPUT", _written(kept_out.to_host, version), Place.LAST, closing=("DROP", "REJECT")),
    ]
    if not accepts_only:
        mangle = (
            ("PREROUTING", _written(_going_on(kept_out.prerouting), version)),
            ("INPUT", _written(kept_out.delivered, version)),
            # Before filter, and routing, which may look at marks, is over.
            ("FORWARD", (*_written(kept_out.forwarded, version), *_marking(wanted, overlay))),
        )
        parts = [
            *_masquerading(wanted, overlay),
            *parts,
            *(_part("mangle", chain, rules, Place.FIRST) for chain, rules in mangle),
        ]
    parts = [part for part in parts if part.chain.rules]
    return Ruleset(chains=tuple(part.chain for part in parts), jumps=tuple(part.jump for part in parts))


def without_sets(rules: Ruleset) -> Ruleset:
    """The same for a kernel without sets of addresses: whom a packet is from is not looked at.

    An accept of what is from a peer's subnet becomes one of the network's, or plain routes would carry nothing.
    """
    return replace(rules, chains=tuple(replace(one, rules=tuple(_without_sets(one.rules))) for one in rules.chains))


def _without_sets(rules: Iterable[str]) -> Iterator[str]:
    for rule in rules:
        leased = _FROM_LEASED.search(rule)
        if leased and rule.startswith("-s ") and rule.endswith("-j ACCEPT"):
            yield rule.replace(leased[0], "")
        elif "--match-set" not in rule:
            yield rule


def _masquerading(wanted: DesiredRules, overlay: Overlay) -> list[_Part]:
    if not wanted.masquerade:
        return []
    network, subnet = overlay.network, overlay.subnet
    mark = f"{MASQUERADED_ELSEWHERE:#x}"
    rules = (
        f"-m mark --mark {mark}/{mark} {ours().comment} -j RETURN",
        f"-s {subnet} -d {network} {ours().comment} -j RETURN",
        f"-s {network} -d {subnet} {ours().comment} -j RETURN",
        f"! -s {network} -d {subnet} {ours().comment} -j RETURN",
        f"-s {network} ! -d {MULTICAST[network.version]} {ours().comment} -j MASQUERADE --random-fully",
        f"! -s {network} -d {network} {ours().comment} -j MASQUERADE --random-fully",
    )
    return [_part("nat", "POSTROUTING", rules, Place.ANYWHERE)]


def _forward(wanted: DesiredRules, overlay: Overlay) -> list[_Part]:
    if not wanted.forward:
        return []
    # Narrower than flannel's, which accept whatever is to or from the network, from anybody.
    inward = [f"{_within(overlay)} -i {device}" for device in wanted.devices]
    for one in wanted.trusts(overlay.network.version):
        inward += [f"-s {one} -d {overlay.network}", f"-s {overlay.network} -d {one}"]
    rules = (
        *(f"{way} {ours().comment} -j ACCEPT" for way in inward),
        f"-s {overlay.subnet} -i {wanted.bridge} {ours().comment} -j ACCEPT",
        f"-d {overlay.subnet} -o {wanted.bridge} -m conntrack --ctstate RELATED,ESTABLISHED {ours().comment} -j ACCEPT",
    )
    return [_part("filter", "FORWARD", rules, Place.LAST, closing=("DROP", "REJECT"))]


def _docker_user(wanted: DesiredRules, overlay: Overlay) -> _Part:
    # A container may claim to be from a network that is trusted.
    own = wanted.other_bridges if wanted.trusts(overlay.network.version) else ()
    rules = (
        *(f"-i {bridge} {ours().comment} -j RETURN" for bridge in own),
        *_written(accept_rules(wanted, overlay), overlay.network.version),
    )
    chain = IptablesChain(table="filter", name=f"{ours().chains}DOCKER", rules=rules)
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


def _marking(wanted: DesiredRules, overlay: Overlay) -> tuple[str, ...]:
    if wanted.mark is None:
        return ()
    version = overlay.network.version
    return tuple(
        f"{_match(way, version)} {ours().comment} -j MARK --set-xmark {wanted.mark}"
        for way in accept_rules(wanted, overlay)
    )


def _within(overlay: Overlay) -> str:
    return f"-s {overlay.network} -d {overlay.subnet}"


def _going_on(rules: Iterable[FilterRule]) -> tuple[FilterRule, ...]:
    """The same, but what is let through goes on to what is behind: an accept would end the whole table.

    There are the rules of this host's other networks, and an administrator's own.
    """
    return tuple(replace(rule, verdict=RETURN) if rule.verdict == ACCEPT else rule for rule in rules)


def _written(rules: Sequence[FilterRule], version: int) -> tuple[str, ...]:
    return tuple(_rule(rule, version) for rule in rules)


def _rule(rule: FilterRule, version: int) -> str:
    return f"{_match(rule, version)} {ours().comment} -j {rule.verdict.upper()}"


def _match(rule: FilterRule, version: int) -> str:
    """What a rule matches, in the order of words of `iptables-save`."""
    words = [
        rule.source and f"-s {rule.source}",
        rule.destination and f"-d {rule.destination}",
        rule.in_device and f"-i {rule.in_device}",
        rule.out_device and f"-o {rule.out_device}",
        rule.protocol and f"-p {rule.protocol}",
        rule.port and f"-m {rule.protocol} --dport {rule.port}",
        rule.source_mac and f"-m mac --mac-source {rule.source_mac}",
        None if rule.source_peer is None else _set(ours().peers(version), member=rule.source_peer, end="src"),
        None if rule.destination_peer is None else _set(ours().peers(version), member=rule.destination_peer, end="dst"),
        None if rule.source_leased is None else _set(ours().leased(version), member=rule.source_leased, end="src"),
        None
        if rule.destination_leased is None
        else _set(ours().leased(version), member=rule.destination_leased, end="dst"),
        "-m addrtype --dst-type LOCAL" if rule.local else None,
        "-m conntrack ! --ctstate RELATED,ESTABLISHED" if rule.begins else None,
    ]
    return " ".join(word for word in words if word)


def _set(name: str, *, member: bool, end: str) -> str:
    return f"-m set {'' if member else '! '}--match-set {name} {end}"


def _part(table: str, chain: str, rules: tuple[str, ...], place: Place, closing: tuple[str, ...] = ()) -> _Part:
    made = IptablesChain(table=table, name=f"{ours().chains}{chain}", rules=rules)
    return _Part(chain=made, jump=Jump(table=table, chain=chain, to=made.name, place=place, closing=closing))

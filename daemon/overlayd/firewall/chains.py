"""The desired rules of iptables and ip6tables, as values. Pure: no I/O.

Each rule is spelled as `iptables-save` prints it, so that the desired rules and those in the kernel compare as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from enum import Enum

from overlayd.firewall.rules import MASQUERADED_ELSEWHERE, MULTICAST, DesiredRules, Overlay
from overlayd.firewall.strangers import ACCEPT, DROP, RETURN, FilterRule, accept_rules, stranger_rules
from overlayd.lib.marks import ours
from overlayd.lib.quick_dataclass import dataclass

_FROM_LEASED = re.compile(r"-m set --match-set OVERLAYD\d?-LEASED[46] src ")


class JumpPlace(Enum):
    """Where our jump has to stand in a chain that is not ours."""

    FIRST = "before every other rule"
    LAST = "after every other rule, but before a closing verdict"
    ANYWHERE = "once, at the end if it is new"


@dataclass(frozen=True, kw_only=True)
class IptablesChain:
    """A chain of ours with its rules in order, without the `-A NAME` in front."""

    table: str
    name: str
    rules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A rule in a chain that is not ours which jumps to a chain of ours.

    For JumpPlace.LAST: a rule without conditions and with one of the verdicts `closing` ends the chain, and the jump
    has to stand before it. `instead` is the jump to use where `chain` does not exist.
    """

    table: str
    chain: str
    to: str
    place: JumpPlace
    closing: tuple[str, ...] = ()
    instead: Jump | None = None

    @property
    def rule(self) -> str:
        """The jump as `iptables-save` prints it, without the `-A NAME` in front."""
        return f"{ours().comment} -j {self.to}"


@dataclass(frozen=True, kw_only=True)
class Ruleset:
    """All desired chains of one IP version, and the jumps that lead packets to them."""

    chains: tuple[IptablesChain, ...] = ()
    jumps: tuple[Jump, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _JumpedChain:
    """A chain of ours with the jump to it. One without rules is left out, with its jump."""

    chain: IptablesChain
    jump: Jump


def ruleset(desired: DesiredRules, version: int, *, accepts_only: bool = False) -> Ruleset:
    """The iptables rules of one IP version; none where there is no overlay of it.

    The masquerading rules are flannel's, in flannel's order. Accept rules are needed because stock Docker drops what is
    for a container and did not come from its bridge: from 28.0 on in the filter table, from 28.2 on in raw too. In each
    table an accept of ours stands before that; in filter it is in DOCKER-USER, after the administrator's own drops.
    Other rules keep strangers out (strangers.py).
    `accepts_only` leaves out what a table of nftables does as well (table.py). The drops for this host's own ports stay
    here: in a table of its own they would override the administrator's accepts.
    """
    overlay = desired.overlay(version)
    if overlay is None:
        return Ruleset()
    strangers = stranger_rules(desired, version)
    raw = strangers.raw if not accepts_only else tuple(rule for rule in strangers.raw if rule.verdict != DROP)
    parts = [
        *_forward(desired, overlay),
        _docker_user(desired, overlay),
        _jumped("raw", "PREROUTING", _written(raw, version), JumpPlace.FIRST),
        _jumped("filter", "INPUT", _written(strangers.input_last, version), JumpPlace.LAST, closing=("DROP", "REJECT")),
    ]
    if not accepts_only:
        mangle = (
            ("PREROUTING", _written(_accept_as_return(strangers.prerouting), version)),
            ("INPUT", _written(strangers.input, version)),
            # Marks are set after routing, which may depend on marks, and before the filter table, where Docker
            # looks at them.
            ("FORWARD", (*_written(strangers.forward, version), *_marking(desired, overlay))),
        )
        parts = [
            *_masquerading(desired, overlay),
            *parts,
            *(_jumped("mangle", chain, rules, JumpPlace.FIRST) for chain, rules in mangle),
        ]
    parts = [part for part in parts if part.chain.rules]
    return Ruleset(chains=tuple(part.chain for part in parts), jumps=tuple(part.jump for part in parts))


def without_sets(rules: Ruleset) -> Ruleset:
    """The same rules for a kernel without sets of addresses (ipset): rules that need a set are left out.

    An accept from peers' subnets becomes one from the whole network, or plain routes would not work at all.
    """
    return replace(rules, chains=tuple(replace(one, rules=tuple(_without_sets(one.rules))) for one in rules.chains))


def _without_sets(rules: Iterable[str]) -> Iterator[str]:
    for rule in rules:
        leased = _FROM_LEASED.search(rule)
        if leased and rule.startswith("-s ") and rule.endswith("-j ACCEPT"):
            yield rule.replace(leased[0], "")
        elif "--match-set" not in rule:
            yield rule


def _masquerading(desired: DesiredRules, overlay: Overlay) -> list[_JumpedChain]:
    if not desired.masquerade:
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
    return [_jumped("nat", "POSTROUTING", rules, JumpPlace.ANYWHERE)]


def _forward(desired: DesiredRules, overlay: Overlay) -> list[_JumpedChain]:
    if not desired.forward:
        return []
    # flannel accepts every packet to or from the network, whoever sends it. These accept less.
    accepted = [f"{_within(overlay)} -i {device}" for device in desired.devices]
    for one in desired.trusts(overlay.network.version):
        accepted += [f"-s {one} -d {overlay.network}", f"-s {overlay.network} -d {one}"]
    established = "-m conntrack --ctstate RELATED,ESTABLISHED"
    rules = (
        *(f"{match} {ours().comment} -j ACCEPT" for match in accepted),
        f"-s {overlay.subnet} -i {desired.bridge} {ours().comment} -j ACCEPT",
        f"-d {overlay.subnet} -o {desired.bridge} {established} {ours().comment} -j ACCEPT",
    )
    return [_jumped("filter", "FORWARD", rules, JumpPlace.LAST, closing=("DROP", "REJECT"))]


def _docker_user(desired: DesiredRules, overlay: Overlay) -> _JumpedChain:
    # A container can give itself an address of a trusted network: the accepts below are not for containers.
    bridges = desired.other_bridges if desired.trusts(overlay.network.version) else ()
    rules = (
        *(f"-i {bridge} {ours().comment} -j RETURN" for bridge in bridges),
        *_written(accept_rules(desired, overlay), overlay.network.version),
    )
    chain = IptablesChain(table="filter", name=f"{ours().chains}DOCKER", rules=rules)
    jump = Jump(
        table="filter",
        chain="DOCKER-USER",
        to=chain.name,
        place=JumpPlace.LAST,
        closing=("RETURN",),
        # Docker before 17.06 has no DOCKER-USER; a later one makes it when it starts.
        instead=Jump(table="filter", chain="FORWARD", to=chain.name, place=JumpPlace.FIRST),
    )
    return _JumpedChain(chain=chain, jump=jump)


def _marking(desired: DesiredRules, overlay: Overlay) -> tuple[str, ...]:
    if desired.mark is None:
        return ()
    version = overlay.network.version
    return tuple(
        f"{_match(rule, version)} {ours().comment} -j MARK --set-xmark {desired.mark}"
        for rule in accept_rules(desired, overlay)
    )


def _within(overlay: Overlay) -> str:
    return f"-s {overlay.network} -d {overlay.subnet}"


def _accept_as_return(rules: Iterable[FilterRule]) -> tuple[FilterRule, ...]:
    """The same rules with RETURN for ACCEPT, which would end the whole table.

    After ours there are the rules of this host's other networks and the administrator's own.
    """
    return tuple(replace(rule, verdict=RETURN) if rule.verdict == ACCEPT else rule for rule in rules)


def _written(rules: Sequence[FilterRule], version: int) -> tuple[str, ...]:
    return tuple(_rule(rule, version) for rule in rules)


def _rule(rule: FilterRule, version: int) -> str:
    return f"{_match(rule, version)} {ours().comment} -j {rule.verdict.upper()}"


def _match(rule: FilterRule, version: int) -> str:
    """The rule's conditions, in the order in which `iptables-save` prints them."""
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
        "-m conntrack ! --ctstate RELATED,ESTABLISHED" if rule.not_established else None,
    ]
    return " ".join(word for word in words if word)


def _set(name: str, *, member: bool, end: str) -> str:
    return f"-m set {'' if member else '! '}--match-set {name} {end}"


def _jumped(
    table: str, chain: str, rules: tuple[str, ...], place: JumpPlace, closing: tuple[str, ...] = ()
) -> _JumpedChain:
    made = IptablesChain(table=table, name=f"{ours().chains}{chain}", rules=rules)
    return _JumpedChain(chain=made, jump=Jump(table=table, chain=chain, to=made.name, place=place, closing=closing))

"""The way of a packet through every program's rules, and where an accept would let it pass. Pure.

A packet passes all base chains of a hook, of whatever program, and an accept ends only the one that it is in: each that
drops needs an accept of its own, before what drops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from overlayd.lib.addresses import IPNetwork
from overlayd.lib.iptables_save import Tables
from overlayd.lib.marks import network_of_rule, of, ours
from overlayd.ruleset.iptables import trace, with_accept
from overlayd.ruleset.nftables import BaseChain
from overlayd.ruleset.walk import Packet, Verdict

# netfilter's priorities of iptables' tables (linux/netfilter_ipv4.h), in each hook the tables that it has there. nat
# drops nothing: iptables refuses the word.
_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_TABLES = {
    "prerouting": ("raw", "mangle"),
    "input": ("mangle", "filter", "security"),
    "forward": ("mangle", "filter", "security"),
    "output": ("raw", "mangle", "filter", "security"),
    "postrouting": ("mangle",),
}
FORWARDED = ("prerouting", "forward", "postrouting")
# Docker leaves it to the administrator, and passes it before its own rules in FORWARD.
_DOCKER_USER = "DOCKER-USER"
_NUMBERS = {"ipencap": "4"}


@dataclass(frozen=True, kw_only=True)
class IptablesRules:
    """The rules of one kind of iptables for one IP version; `command` lists and changes them.

    `tables` is None where they could not be read, and `problem` says why.
    """

    command: str
    version: int = 4
    tables: Tables | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Match:
    """The packets that an accept is for; what is empty does not matter."""

    in_device: str = ""
    out_device: str = ""
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    protocol: str | None = None
    port: int | None = None

    def at(self, hook: str) -> Match:
        """The same where one of the devices is not known yet, or not any more."""
        found = self
        if hook in ("output", "postrouting"):
            found = replace(found, in_device="")
        return replace(found, out_device="") if hook in ("prerouting", "input") else found

    def iptables(self) -> str:
        """In words of iptables."""
        words = [
            self.in_device and f"-i {self.in_device}",
            self.out_device and f"-o {self.out_device}",
            self.source and f"-s {self.source}",
            self.destination and f"-d {self.destination}",
            self.protocol and f"-p {self.protocol}",
            self.port and f"--dport {self.port}",
        ]
        return " ".join(str(word) for word in words if word)

    def nft(self) -> str:
        """In words of nft."""
        family = "ip6" if self.source is not None and self.source.version == 6 else "ip"
        words = [
            self.in_device and f'iifname "{self.in_device}"',
            self.out_device and f'oifname "{self.out_device}"',
            self.source and f"{family} saddr {self.source}",
            self.destination and f"{family} daddr {self.destination}",
            self.protocol and not self.port and f"meta l4proto {_NUMBERS.get(self.protocol, self.protocol)}",
            self.port and f"{self.protocol} dport {self.port}",
        ]
        return " ".join(str(word) for word in words if word)


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A base chain that drops a packet, or may. `remedy` is None where no command of ours helps: `table` says whose."""

    by: str
    table: str
    remedy: str | None


@dataclass(frozen=True, kw_only=True)
class PathDrops:
    """What drops a packet for certain, and what may: each base chain on its way."""

    drops: tuple[Drop, ...] = ()
    doubts: tuple[Drop, ...] = ()


class _Stage(Protocol):
    priority: int

    def trace(self, packet: Packet) -> Verdict: ...

    def drop(self, packet: Packet, match: Match, by: str) -> Drop: ...


def travel(
    kinds: Sequence[IptablesRules], bases: Sequence[BaseChain], packet: Packet, hooks: Sequence[str], match: Match
) -> PathDrops:
    """A packet's way through these hooks; `match` is what an accept for it and its like would ask for."""
    drops, doubts = [], []
    for hook in hooks:
        asked = match.at(hook)
        for stage in sorted(_stages(kinds, bases, packet.version, hook), key=lambda stage: stage.priority):
            verdict, by = _decide(stage, packet)
            packet = replace(packet, mark=verdict.mark)
            if by is not None:
                drops.append(stage.drop(packet, asked, by))
            elif verdict.dropped:
                doubts.append(stage.drop(packet, asked, verdict.by))
            else:
                # What overlayd drops only of some, as a backend's packets from containers, is as it should be.
                others = (rule for rule in verdict.doubts if network_of_rule(rule) is None)
                doubts += [stage.drop(packet, asked, rule) for rule in islice(others, 1)]
    return PathDrops(drops=tuple(drops), doubts=tuple(doubts))


def _decide(stage: _Stage, packet: Packet) -> tuple[Verdict, str | None]:
    """The verdict, and by what the packet is dropped for certain.

    Where nothing is said of the protocol: whatever drops all TCP or all UDP is no doubt; and that published ports are
    let in is no comfort to the rest.
    """
    verdict = stage.trace(packet)
    if verdict.dropped and not verdict.doubts:
        return verdict, verdict.by
    if packet.protocol is None and verdict.doubts:
        icmp = "icmp" if packet.version == 4 else "ipv6-icmp"
        for protocol in ("tcp", "udp", *((icmp,) if verdict.dropped else ())):
            one = stage.trace(replace(packet, protocol=protocol))
            if one.dropped and not one.doubts:
                return verdict, one.by
    return verdict, None


def _stages(kinds: Sequence[IptablesRules], bases: Sequence[BaseChain], version: int, hook: str) -> Iterator[_Stage]:
    for kind in kinds:
        if kind.version == version and kind.tables is not None:
            for table in _TABLES[hook]:
                if hook.upper() in kind.tables.get(table, {}):
                    yield _OfIptables(kind.command, kind.tables, table, hook.upper())
    for base in bases:
        if base.hook == hook and base.sees(version):
            yield _OfNft(base)


def _network_remedy(network: int) -> str:
    """What mends the rules of that network; of our own in the words that are said of whichever is ours."""
    if network == ours().number:
        return "systemctl restart overlayd"
    return of(network).restart


class _OfIptables:
    def __init__(self, command: str, tables: Tables, table: str, chain: str) -> None:
        self.priority = _PRIORITIES[table]
        self._command, self._tables, self._table, self._chain = command, tables, table, chain

    def trace(self, packet: Packet) -> Verdict:
        return trace(self._tables, self._table, self._chain, packet)

    def drop(self, packet: Packet, match: Match, by: str) -> Drop:
        return Drop(by=f"{self._command}: {by}", table=self._table, remedy=self._remedy(packet, match, by))

    def _remedy(self, packet: Packet, match: Match, by: str) -> str:
        network = network_of_rule(by)
        if network is not None:
            return _network_remedy(network)
        chains = self._tables[self._table]
        where = self._chain
        if self._chain == "FORWARD" and _DOCKER_USER in chains:
            # Docker's own chain for such rules, where that comes before what drops.
            changed = with_accept(self._tables, self._table, _DOCKER_USER, match.iptables())
            verdict = trace(changed, self._table, self._chain, packet)
            if not verdict.dropped and not verdict.doubts:
                where = _DOCKER_USER
        table = "" if self._table == "filter" else f"-t {self._table} "
        return f"{self._command} {table}-I {where} {match.iptables()} -j ACCEPT"


class _OfNft:
    def __init__(self, base: BaseChain) -> None:
        self.priority = base.priority
        self._base = base

    def trace(self, packet: Packet) -> Verdict:
        return self._base.trace(packet)

    def drop(self, packet: Packet, match: Match, by: str) -> Drop:  # noqa: ARG002 - as of iptables
        base = self._base
        remedy: str | None = f"nft 'insert rule {base.where} {match.nft()} accept'"
        network = network_of_rule(by)
        if network is not None:
            remedy = _network_remedy(network)
        elif base.owned or base.table == "firewalld":
            remedy = None
        return Drop(by=f"nft: {by}", table=base.table, remedy=remedy)

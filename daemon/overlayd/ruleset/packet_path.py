"""The path of a packet through all base chains of a host, and which accept rule would let it pass. Pure.

A packet passes through all base chains of a hook, whichever program made them. An accept ends its own base chain only:
so each base chain that drops the packet needs an accept of its own, before the rule that drops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol

from overlayd.lib.addresses import IPNetwork
from overlayd.lib.iptables_save import Tables
from overlayd.lib.marks import network_of_rule, of, ours
from overlayd.lib.quick_dataclass import dataclass
from overlayd.ruleset.iptables import trace, with_accept
from overlayd.ruleset.nftables import BaseChain
from overlayd.ruleset.walk import Packet, Verdict

# The priorities of iptables' tables (linux/netfilter_ipv4.h), and the tables of each hook. nat is left out, as iptables
# refuses drops there.
_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_TABLES = {
    "prerouting": ("raw", "mangle"),
    "input": ("mangle", "filter", "security"),
    "forward": ("mangle", "filter", "security"),
    "output": ("raw", "mangle", "filter", "security"),
    "postrouting": ("mangle",),
}
FORWARDED = ("prerouting", "forward", "postrouting")
# Docker's chain for rules of the administrator. In FORWARD it comes before Docker's own rules.
_DOCKER_USER = "DOCKER-USER"
_NUMBERS = {"ipencap": "4"}


@dataclass(frozen=True, kw_only=True)
class IptablesRules:
    """The rules of one variant of iptables for one IP version; `command` reads and changes them.

    `tables` is None where they could not be read, and `problem` says why.
    """

    command: str
    version: int = 4
    tables: Tables | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Match:
    """The conditions of an accept rule. An empty field is no condition."""

    in_device: str = ""
    out_device: str = ""
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    protocol: str | None = None
    port: int | None = None

    def at(self, hook: str) -> Match:
        """The same conditions without the device that a packet does not have in that hook, or not yet."""
        found = self
        if hook in ("output", "postrouting"):
            found = replace(found, in_device="")
        return replace(found, out_device="") if hook in ("prerouting", "input") else found

    def iptables(self) -> str:
        """The conditions as iptables writes them."""
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
        """The conditions as nft writes them."""
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
    """A base chain that drops a packet, or may. `remedy` is a command, None where the owner of `table` has to act."""

    by: str
    table: str
    remedy: str | None


@dataclass(frozen=True, kw_only=True)
class PathDrops:
    """The base chains that certainly drop a packet (`drops`), and those that may do so (`doubts`)."""

    drops: tuple[Drop, ...] = ()
    doubts: tuple[Drop, ...] = ()


def rules_met(
    kinds: Sequence[IptablesRules], bases: Sequence[BaseChain], packet: Packet, hooks: Sequence[str]
) -> Iterator[str]:
    """The rules that do something with a packet on its way through these hooks, translation of addresses included."""
    for hook in hooks:
        for stage in sorted(_stages(kinds, bases, packet.version, hook), key=lambda stage: stage.priority):
            verdict = stage.trace(packet)
            packet = replace(packet, mark=verdict.mark)
            yield from verdict.met
        for kind in kinds:
            if kind.version == packet.version and kind.tables is not None:
                yield from trace(kind.tables, "nat", hook.upper(), packet).met


class _Stage(Protocol):
    priority: int

    def trace(self, packet: Packet) -> Verdict: ...

    def drop(self, packet: Packet, match: Match, by: str) -> Drop: ...


def trace_path(
    kinds: Sequence[IptablesRules], bases: Sequence[BaseChain], packet: Packet, hooks: Sequence[str], match: Match
) -> PathDrops:
    """Trace a packet through these hooks. `match` are the conditions of an accept rule for such packets."""
    drops, doubts = [], []
    for hook in hooks:
        accept = match.at(hook)
        for stage in sorted(_stages(kinds, bases, packet.version, hook), key=lambda stage: stage.priority):
            verdict, by = _decide(stage, packet)
            packet = replace(packet, mark=verdict.mark)
            if by is not None:
                drops.append(stage.drop(packet, accept, by))
            elif verdict.dropped:
                doubts.append(stage.drop(packet, accept, verdict.by))
            else:
                # Rules of overlayd that may drop the packet are no doubt: they are as they should be.
                others = (rule for rule in verdict.doubts if network_of_rule(rule) is None)
                doubts += [stage.drop(packet, accept, rule) for rule in islice(others, 1)]
    return PathDrops(drops=tuple(drops), doubts=tuple(doubts))


def _decide(stage: _Stage, packet: Packet) -> tuple[Verdict, str | None]:
    """The verdict, and the rule or policy that certainly drops the packet; None without one.

    Where the packet has no protocol, a rule that drops all TCP or all UDP counts as certain. Accepts for single ports,
    as of published ports, do not change that.
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
    """The command that repairs the rules of that network; for ours as for network 0 (Marks.adapt_commands)."""
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
            # Docker's own chain for such rules, where an accept there comes before the drop.
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

    def drop(self, packet: Packet, match: Match, by: str) -> Drop:  # noqa: ARG002 - the interface of _Stage
        base = self._base
        remedy: str | None = f"nft 'insert rule {base.where} {match.nft()} accept'"
        network = network_of_rule(by)
        if network is not None:
            remedy = _network_remedy(network)
        elif base.owned or base.table == "firewalld":
            remedy = None
        return Drop(by=f"nft: {by}", table=base.table, remedy=remedy)

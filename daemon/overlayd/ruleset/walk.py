"""The walk of a packet through chains of rules, of iptables or nftables. Pure.

Not every condition of a rule can be evaluated from outside (rates, states, a program's decision). The effect of such a
rule is uncertain: the rule is a doubt, and so are rules whose effect depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum
from typing import Protocol

from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.quick_dataclass import dataclass

# IANA protocol-numbers, with the names that iptables prints (from /etc/protocols).
_PROTOCOLS = {
    "1": "icmp",
    "4": "ipencap",
    "ipip": "ipencap",
    "6": "tcp",
    "17": "udp",
    "58": "ipv6-icmp",
    "icmpv6": "ipv6-icmp",
}
# The kernel refuses loops of chains. In a text there may be one: this depth, which no real ruleset has, ends it.
_DEEPEST = 32


@dataclass(frozen=True, kw_only=True)
class Packet:
    """The first packet of a connection that passes through this host. None: any value, or not known.

    Unless `first`, it is any packet of a connection.
    `source` and `destination` may be networks: any of their addresses. `mac` is the sender's link address. `local`: the
    destination is an address of this host. `sets` are the elements of sets of addresses, by name, as far as known.
    `mark` is the firewall mark so far. `answered`: an answer would leave by the device on which the packet came in.
    """

    source: IPAddress | IPNetwork
    destination: IPAddress | IPNetwork
    in_device: str = ""
    out_device: str = ""
    protocol: str | None = None
    port: int | None = None
    mac: str | None = None
    local: bool | None = None
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    mark: int | None = 0
    answered: bool | None = None
    first: bool = True

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.source.version


def protocol_name(written: object) -> str:
    """The name of a protocol that is given by its number or any of its names."""
    return _PROTOCOLS.get(str(written), str(written))


class ActionKind(StrEnum):
    """The kinds of actions that a rule has for a packet."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"
    MARK = "mark"


@dataclass(frozen=True, kw_only=True)
class Action:
    """One action of a rule: `target` is the chain to continue in, `mark` the new mark, None if it is not known."""

    kind: ActionKind
    target: str = ""
    mark: int | None = None


@dataclass(frozen=True, kw_only=True)
class RuleEffect:
    """A rule's actions for a packet. `sure`: all of them happen, in this order; otherwise each of them may happen.

    `beside`: it does something else too, which decides nothing: it writes to a log, or counts.
    """

    actions: tuple[Action, ...] = ()
    sure: bool = True
    beside: bool = False


class Rule(Protocol):
    """One rule, of iptables or nftables."""

    @property
    def shown(self) -> str:
        """The rule as its program prints it, with its chain."""

    def effect_on(self, packet: Packet) -> RuleEffect:
        """Its effect on a packet."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result for a packet in one base chain.

    `by` is the rule, with its chain, or the policy that decided. `doubts` are rules before that whose effect is
    uncertain, and which may decide otherwise. `met` are all rules that do something with the packet, or may, beside
    leading it to another chain. `mark` is the packet's mark at the end.
    """

    dropped: bool
    by: str
    doubts: tuple[str, ...] = ()
    met: tuple[str, ...] = ()
    mark: int | None = 0


# Whether the packet is dropped, and by which rule.
_Decision = tuple[bool, str]


def walk(chains: Mapping[str, Sequence[Rule]], name: str, packet: Packet, policy: _Decision) -> Verdict:
    """The verdict of the base chain `name`; `policy` decides where no rule does."""
    walker = _Walker(chains, packet)
    dropped, by = walker.chain(name, 0) or policy
    doubts = tuple(dict.fromkeys(rule for other, rule in walker.doubts if other is not dropped))
    met = tuple(dict.fromkeys(walker.met))
    return Verdict(dropped=dropped, by=by, doubts=doubts, met=met, mark=walker.packet.mark)


class _Walker:
    def __init__(self, chains: Mapping[str, Sequence[Rule]], packet: Packet) -> None:
        self.chains = chains
        self.packet = packet
        self.doubts: list[_Decision] = []
        self.met: list[str] = []

    def chain(self, name: str, depth: int) -> _Decision | None:
        """The decision of a chain; None where the packet returns from it, or may have returned before that decision."""
        may_have_returned = False
        for rule in self.chains.get(name, ()) if depth <= _DEEPEST else ():
            effect, before = rule.effect_on(self.packet), self.packet.mark
            if effect.beside or any(self._does_something(action) for action in effect.actions):
                self.met.append(rule.shown)
            for action in effect.actions:
                decided, leaves = self._do(action, rule, depth)
                if decided is not None and (may_have_returned or not effect.sure):
                    self.doubts.append(decided)
                if effect.sure and (decided is not None or leaves):
                    return None if may_have_returned else decided
                may_have_returned = may_have_returned or (leaves and not effect.sure)
            if not effect.sure and self.packet.mark != before:
                self.packet = replace(self.packet, mark=None)
        return None

    def _does_something(self, action: Action) -> bool:
        if action.kind in (ActionKind.JUMP, ActionKind.GOTO):
            # A target of iptables that decides nothing has no chain.
            return action.target not in self.chains
        return action.kind is not ActionKind.RETURN

    def _do(self, action: Action, rule: Rule, depth: int) -> tuple[_Decision | None, bool]:
        """The decision of one action, and whether the packet leaves the chain even without one."""
        match action.kind:
            case ActionKind.ACCEPT | ActionKind.DROP:
                return (action.kind is ActionKind.DROP, rule.shown), False
            case ActionKind.JUMP | ActionKind.GOTO:
                return self.chain(action.target, depth + 1), action.kind is ActionKind.GOTO
            case ActionKind.MARK:
                self.packet = replace(self.packet, mark=action.mark)
                return None, False
        return None, True

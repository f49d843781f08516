"""How a packet goes through chains of rules, whoever's rules they are. Pure.

What a rule asks cannot always be answered from outside (rates, states, what only userspace knows): such a rule counts
as a doubt, and so does all that depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from overlayd.lib.addresses import IPAddress

# IANA, protocol-numbers, by the names that iptables prints (of /etc/protocols).
_PROTOCOLS = {
    "1": "icmp",
    "4": "ipencap",
    "ipip": "ipencap",
    "6": "tcp",
    "17": "udp",
    "58": "ipv6-icmp",
    "icmpv6": "ipv6-icmp",
}
# Chains call each other; a loop is refused by the kernel, a depth like this is nobody's.
_DEEPEST = 32


@dataclass(frozen=True, kw_only=True)
class Packet:
    """The first packet of a connection, on its way through this host. None: does not matter, or not known.

    `mac` is the link's address that it comes from. `local`: it is for an address of this host. `sets` are the members
    of sets of addresses, by name, as far as known. `mark` is the firewall mark that rules gave it so far. `answered`:
    an answer would leave by the device that it came from.
    """

    source: IPAddress
    destination: IPAddress
    in_device: str = ""
    out_device: str = ""
    protocol: str | None = None
    port: int | None = None
    mac: str | None = None
    local: bool | None = None
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    mark: int | None = 0
    answered: bool | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.source.version


def protocol_name(written: object) -> str:
    """The one name of a protocol that is written as a number or by any of its names."""
    return _PROTOCOLS.get(str(written), str(written))


class ActionKind(StrEnum):
    """What becomes of a packet that a rule is for."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"
    MARK = "mark"


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing that a rule does: `target` is the chain to go to, `mark` the new mark, None if it is not known."""

    does: ActionKind
    target: str = ""
    mark: int | None = None


@dataclass(frozen=True, kw_only=True)
class RuleEffect:
    """What a rule does with a packet. `sure`: all of it happens, in order; otherwise each of it may."""

    actions: tuple[Action, ...] = ()
    sure: bool = True


class Rule(Protocol):
    """One rule of any program's."""

    @property
    def shown(self) -> str:
        """As its program shows it, with its chain."""

    def judge(self, packet: Packet) -> RuleEffect:
        """What it does with a packet."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What happens to a packet in one base chain.

    `by` is the rule, with its chain, or the policy that decided. `doubts` are rules before that which might have
    decided otherwise, had they been understood. `mark` is what the packet has when it leaves.
    """

    dropped: bool
    by: str
    doubts: tuple[str, ...] = ()
    mark: int | None = 0


# Whether it is dropped, and by which rule.
_Decision = tuple[bool, str]


def walk(chains: Mapping[str, Sequence[Rule]], name: str, packet: Packet, policy: _Decision) -> Verdict:
    """The verdict of a base chain with that policy."""
    walker = _Walker(chains, packet)
    dropped, by = walker.chain(name, 0) or policy
    doubts = tuple(dict.fromkeys(rule for other, rule in walker.doubts if other is not dropped))
    return Verdict(dropped=dropped, by=by, doubts=doubts, mark=walker.packet.mark)


class _Walker:
    def __init__(self, chains: Mapping[str, Sequence[Rule]], packet: Packet) -> None:
        self.chains = chains
        self.packet = packet
        self.doubts: list[_Decision] = []

    def chain(self, name: str, depth: int) -> _Decision | None:
        """What a chain decides; None where the packet comes back from it, or may have come back before."""
        may_have_left = False
        for rule in self.chains.get(name, ()) if depth <= _DEEPEST else ():
            judged, before = rule.judge(self.packet), self.packet.mark
            for action in judged.actions:
                decided, leaves = self._do(action, rule, depth)
                if decided is not None and (may_have_left or not judged.sure):
                    self.doubts.append(decided)
                if judged.sure and (decided is not None or leaves):
                    return None if may_have_left else decided
                may_have_left = may_have_left or (leaves and not judged.sure)
            if not judged.sure and self.packet.mark != before:
                self.packet = replace(self.packet, mark=None)
        return None

    def _do(self, action: Action, rule: Rule, depth: int) -> tuple[_Decision | None, bool]:
        """What one action decides, and whether the rest of the chain is left out even if it decides nothing."""
        match action.does:
            case ActionKind.ACCEPT | ActionKind.DROP:
                return (action.does is ActionKind.DROP, rule.shown), False
            case ActionKind.JUMP | ActionKind.GOTO:
                return self.chain(action.target, depth + 1), action.does is ActionKind.GOTO
            case ActionKind.MARK:
                self.packet = replace(self.packet, mark=action.mark)
                return None, False
        return None, True

"""The verdict that rules of nftables have for a packet, from the JSON of `nft -j list ruleset`. Pure.

libnftables-json(5) has the format. A statement that is not known here makes a rule uncertain, and so does a match that
cannot be evaluated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

from overlayd.lib.addresses import IPAddress, IPNetwork, contains, ip_address
from overlayd.lib.marks import ours
from overlayd.lib.quick_dataclass import dataclass
from overlayd.ruleset.nftables_values import OTHER, UNKNOWN, compared, contained, value_of
from overlayd.ruleset.walk import Action, ActionKind, Packet, Rule, RuleEffect, Verdict, walk

# By IP version: the families of tables that its packets pass through.
_FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_ENDS = {"accept": ActionKind.ACCEPT, "drop": ActionKind.DROP, "reject": ActionKind.DROP, "return": ActionKind.RETURN}
_CALLS = {"jump": ActionKind.JUMP, "goto": ActionKind.GOTO}
# NAT statements end the chain, and later packets of the connection do not pass the chain again.
_TRANSLATES = ("masquerade", "snat", "dnat", "redirect")
_WITHOUT_VERDICT = (
    "counter",
    "log",
    "comment",
    "notrack",
    "ct helper",
    "ct timeout",
    "ct expectation",
    "set",
    "map",
    "flow",
    "last",
)
# Rules themselves may put elements into sets with these flags, of which no generation tells; and what stands for those.
_FILLED_BY_PACKETS, _ANY_ELEMENT = {"dynamic", "timeout"}, {"anything": None}
# Of what decides nothing, what says nothing about what the rule is for.
_OF_EVERY_RULE = ("counter", "comment", "last")


@dataclass(frozen=True, kw_only=True)
class BaseChain:
    """A base chain of one table. `owned`: only the program that made the table may change the table."""

    family: str
    table: str
    name: str
    type: str
    hook: str
    priority: int
    policy: str = "accept"
    owned: bool = False
    chains: Mapping[str, Sequence[Rule]] = field(default_factory=dict, hash=False)

    @property
    def where(self) -> str:
        """Family, table and chain as nft writes them: `inet mine forward`."""
        return f"{self.family} {self.table} {self.name}"

    def sees(self, version: int) -> bool:
        """Whether packets of an IP version pass through the chain."""
        return self.family in _FAMILIES[version]

    @property
    def may_drop(self) -> bool:
        """Whether its policy or any rule drops some packets."""
        return self.policy == "drop" or _drops(self.chains, self.name, set())

    def rules(self) -> list[str]:
        """Its own rules, as messages show them."""
        return [rule.shown for rule in self.chains.get(self.name, ())]

    def addresses(self, subnet: IPNetwork) -> list[IPAddress]:
        """The single addresses of a subnet that its rules have as destination: Docker has rules for each container."""
        found = set()
        for rule in self.chains.get(self.name, ()):
            for expression in rule.expressions if isinstance(rule, _NftRule) else ():
                statement = expression.get("match", {}) if isinstance(expression, dict) else {}
                if isinstance(statement.get("right"), str) and "'daddr'" in str(statement.get("left")):
                    with contextlib.suppress(ValueError):
                        found.add(ip_address(statement["right"]))
        return sorted((one for one in found if contains(subnet, one)), key=int)

    def trace(self, packet: Packet) -> Verdict:
        """Its verdict for a packet."""
        return walk(self.chains, self.name, packet, (self.policy == "drop", f"policy {self.policy} of {self.where}"))


@dataclass(frozen=True)
class _NftRule:
    shown: str
    expressions: tuple[Any, ...]
    sets: Mapping[str, Any] = field(hash=False)
    # Whether the rule is in our own table: then the packet's `sets` add to the table's sets.
    ours: bool = False

    def effect_on(self, packet: Packet) -> RuleEffect:
        """See Rule."""
        actions: list[Action] = []
        sure, beside = True, False
        for expression in self.expressions:
            (kind, statement), *_rest = (
                expression.items() if isinstance(expression, dict) else [("unknown", expression)]
            )
            if kind == "match":
                matches = self._matches(statement, packet)
                if matches is False:
                    # Statements before a match that fails have their effect.
                    break
                sure = sure and matches is True
            elif kind == "vmap":
                found = self._looked_up(statement, packet)
                if found is None:
                    # Each verdict of the map is possible, and none.
                    actions += [one for verdict in self._all(statement, packet) for one in _actions(verdict)]
                    return RuleEffect(actions=tuple(actions), sure=False, beside=beside)
                actions += _actions(found)
            elif kind == "mangle":
                if statement.get("key") == {"meta": {"key": "mark"}}:
                    changed = value_of(statement.get("value"), packet)
                    mark = changed if isinstance(changed, int) else None
                    actions.append(Action(kind=ActionKind.MARK, mark=mark))
                    packet = replace(packet, mark=mark)
            elif kind in _TRANSLATES:
                actions.append(Action(kind=ActionKind.ACCEPT))
            elif kind in ("queue", "xt", "unknown") and (kind != "xt" or _is_target(statement)):
                # A program in userland decides, or a target of iptables of which nft does not show the verdict.
                actions.append(Action(kind=ActionKind.DROP))
                sure = False
            elif kind in (*_ENDS, *_CALLS):
                actions += _actions(expression)
            elif kind not in _WITHOUT_VERDICT:
                sure = False
                beside = True
            else:
                beside = beside or kind not in _OF_EVERY_RULE
        return RuleEffect(actions=tuple(actions), sure=sure, beside=beside)

    def _matches(self, statement: Mapping[str, Any], packet: Packet) -> bool | None:
        value = value_of(statement.get("left"), packet)
        if value is OTHER:
            return False
        if value is UNKNOWN:
            return None
        operator = str(statement.get("op"))
        if operator not in ("==", "in", "!=", "!"):
            return compared(value, operator, statement.get("right"))
        found = contained(value, self._members(statement.get("right"), packet))
        return found if found is None or operator not in ("!=", "!") else not found

    def _members(self, right: Any, packet: Packet) -> list[Any] | None:
        """The values that a match compares with; None where the set does not exist."""
        if isinstance(right, str) and right.startswith("@"):
            elements = self.sets.get(right[1:])
            also = packet.sets.get(right[1:], ()) if self.ours else ()
            return None if elements is None else [*elements, *also]
        if isinstance(right, dict) and "set" in right:
            return self._members(right["set"], packet) if isinstance(right["set"], str) else list(right["set"])
        return list(right) if isinstance(right, list) else [right]

    def _all(self, statement: Mapping[str, Any], packet: Packet) -> list[Any]:
        members = self._members(statement.get("data"), packet) or []
        return [member[1] for member in members if isinstance(member, list) and len(member) == 2]

    def _looked_up(self, statement: Mapping[str, Any], packet: Packet) -> Any:
        """The verdict of a map for a packet, empty where it has none; None where that is not known."""
        value, members = value_of(statement.get("key"), packet), self._members(statement.get("data"), packet)
        if value is OTHER:
            return {}
        if value is UNKNOWN or members is None:
            return None
        fallback: Any = {}
        for member in members:
            if not isinstance(member, list) or len(member) != 2:
                return None
            if member[0] == "*":
                fallback = member[1]
                continue
            found = contained(value, [member[0]])
            if found is None:
                return None
            if found:
                return member[1]
        return fallback


def _actions(verdict: Any) -> list[Action]:
    if not isinstance(verdict, dict):
        return []
    found = []
    for kind, statement in verdict.items():
        if kind in _ENDS:
            found.append(Action(kind=_ENDS[kind]))
        elif kind in _CALLS and isinstance(statement, dict):
            found.append(Action(kind=_CALLS[kind], target=str(statement.get("target"))))
    return found


def parse(items: Iterable[Mapping[str, Any]], listing: str = "") -> tuple[BaseChain, ...]:
    """The base chains of all tables, from the list in the JSON.

    `listing` is the output of `nft -a list ruleset`: messages show rules as they are there.
    """
    shown = _by_handle(listing)
    chains: dict[tuple[str, str], dict[str, list[Rule]]] = {}
    sets: dict[tuple[str, str], dict[str, Any]] = {}
    flags = _flags(listing)
    bases = []
    for item in items:
        ((kind, body),) = item.items()
        if kind not in ("table", "chain", "rule", "set", "map"):
            continue
        table = (str(body.get("family")), str(body.get("name") if kind == "table" else body.get("table")))
        if kind == "table" and not listing:
            # nft 1.0.6 has the name of the table here instead of its flags, so the listing is preferred.
            flags[table] = str(body.get("flags", ""))
        elif kind in ("set", "map"):
            sets.setdefault(table, {})[str(body.get("name"))] = _elements(body)
        elif kind == "chain":
            chains.setdefault(table, {}).setdefault(str(body.get("name")), [])
            if "hook" in body:
                bases.append((table, body))
        elif kind == "rule":
            name, handle = str(body.get("chain")), body.get("handle")
            text = shown.get((*table, name, handle), f"the rule with handle {handle}")
            where, expressions = " ".join((*table, name)), tuple(body.get("expr", []))
            rule = _NftRule(f"{where}: {text}", expressions, sets.setdefault(table, {}), ours=table[1] == ours().name)
            chains.setdefault(table, {}).setdefault(name, []).append(rule)
    return tuple(
        BaseChain(
            family=table[0],
            table=table[1],
            name=str(body.get("name")),
            type=str(body.get("type")),
            hook=str(body.get("hook")),
            priority=int(body.get("prio", 0)),
            policy=str(body.get("policy", "accept")),
            owned="owner" in flags.get(table, ""),
            chains=chains[table],
        )
        for table, body in bases
        # No packet passes through the chains of a dormant table.
        if "dormant" not in flags.get(table, "")
    )


def _elements(body: Mapping[str, Any]) -> list[Any]:
    flags = body.get("flags", ())
    may_get_more = _FILLED_BY_PACKETS.intersection([flags] if isinstance(flags, str) else flags)
    return [*body.get("elem", ()), *([_ANY_ELEMENT] if may_get_more else ())]


def _flags(listing: str) -> dict[tuple[str, str], str]:
    """The flags of each table, by family and name."""
    found: dict[tuple[str, str], str] = {}
    table = ("", "")
    for words in map(str.split, listing.splitlines()):
        if words[:1] == ["table"] and len(words) > 2:
            table = (words[1], words[2])
        elif words[:1] == ["flags"]:
            # The flags of its sets come after its own.
            found.setdefault(table, " ".join(words[1:]))
        elif words[:1] in (["chain"], ["set"], ["map"], ["flowtable"]):
            found.setdefault(table, "")
    return found


def _by_handle(listing: str) -> dict[tuple[str, str, str, object], str]:
    """Each rule's text by family, table, chain and handle."""
    found: dict[tuple[str, str, str, object], str] = {}
    family = table = chain = ""
    for line in listing.splitlines():
        words = line.split()
        if words[:1] == ["table"] and len(words) > 2:
            family, table = words[1], words[2]
        elif words[:1] == ["chain"] and len(words) > 1:
            chain = words[1]
        else:
            text, mark, handle = line.strip().rpartition(" # handle ")
            if mark and handle.isdigit():
                found[family, table, chain, int(handle)] = text
    return found


def _is_target(statement: Any) -> bool:
    return not isinstance(statement, dict) or statement.get("type") != "match"


def _drops(chains: Mapping[str, Sequence[Rule]], name: str, seen: set[str]) -> bool:
    """Whether a rule drops in the chain, or in one that the chain leads to."""
    seen.add(name)
    for rule in chains.get(name, ()):
        text = str(getattr(rule, "expressions", ""))
        if "'drop'" in text or "'reject'" in text or "'vmap'" in text:
            return True
        if any(f"'target': '{other}'" in text and _drops(chains, other, seen) for other in chains if other not in seen):
            return True
    return False

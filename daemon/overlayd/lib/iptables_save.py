"""What `iptables-save` and `ip6tables-save` print, read into values. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class SavedChain:
    """A chain: its rules without the `-A NAME` in front; its policy, None for a user-defined chain, which has none."""

    policy: str | None = None
    rules: tuple[str, ...] = ()


# Packets and bytes before a rule, as the option -c has them printed.
_COUNTERS = re.compile(r"^\[(\d+):\d+\] ")
# table → chain → what it holds
Tables = Mapping[str, Mapping[str, SavedChain]]


def parse(saved: str) -> dict[str, dict[str, SavedChain]]:
    """The tables with their chains, in the order of the text, with or without counters. Other lines are skipped."""
    policies: dict[str, dict[str, str | None]] = {}
    rules: dict[tuple[str, str], list[str]] = {}
    table = ""
    for whole in saved.splitlines():
        line = _COUNTERS.sub("", whole)
        if line.startswith("*"):
            table = line[1:].strip()
            policies.setdefault(table, {})
        elif line.startswith(":") and table and line[1:].strip():
            name, policy = (*line[1:].split(), "")[:2]
            policies[table][name] = None if policy in ("-", "") else policy
        elif line.startswith("-A ") and table:
            name, _, rule = line[3:].partition(" ")
            policies[table].setdefault(name, None)
            rules.setdefault((table, name), []).append(rule.strip())
    return {
        table: {
            name: SavedChain(policy=policy, rules=tuple(rules.get((table, name), ())))
            for name, policy in chains.items()
        }
        for table, chains in policies.items()
    }


def packets(saved: str) -> Iterator[tuple[str, str, str, int]]:
    """Table, chain, rule, and how many packets met it, for each rule in what `iptables-save -c` printed."""
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif (found := _COUNTERS.match(line)) and line[found.end() :].startswith("-A "):
            name, _, rule = line[found.end() + 3 :].partition(" ")
            yield table, name, rule.strip(), int(found[1])

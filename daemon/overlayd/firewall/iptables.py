"""Rules read by `iptables-save` and written by `iptables-restore`, whichever kind (legacy or nft) is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from overlayd import process
from overlayd.firewall.diff import Tables, changes, parse, restore_input
from overlayd.firewall.rules import PREFIX, Ruleset

# The first with `iptables-restore --wait` and `--random-fully`. CentOS 7 has 1.4.21.
_MODERN = (1, 6, 2)
_LOCK_WAIT_S = 5


def sync(wanted: Ruleset) -> bool:
    """Make the rules as wanted, in order, and remove what is ours beside; whether anything had to be written.

    Idempotent. Raises CommandFailed; each table is then as it was or as it should be.
    """
    if not _modern():
        wanted = _without_random_fully(wanted)
    lines = changes(wanted, _read())
    if not lines:
        return False
    argv = ["iptables-restore", "--noflush"]
    if _modern():
        argv += ["--wait", str(_LOCK_WAIT_S)]
    process.run(argv, input=restore_input(lines))
    return True


def cleanup() -> Iterator[str]:
    """Remove every chain and jump of ours, also after a crash; name what was removed. Raises CommandFailed."""
    there = _read()
    sync(Ruleset())
    for table, chains in there.items():
        for name in chains:
            if name.startswith(PREFIX):
                yield f"iptables chain {name} of table {table}"


def _read() -> Tables:
    return parse(process.run(["iptables-save"]))


@cache
def _modern() -> bool:
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", process.run(["iptables", "--version"]))
    return found is not None and tuple(map(int, found.groups())) >= _MODERN


def _without_random_fully(rules: Ruleset) -> Ruleset:
    chains = tuple(
        replace(chain, rules=tuple(rule.replace(" --random-fully", "") for rule in chain.rules))
        for chain in rules.chains
    )
    return replace(rules, chains=chains)

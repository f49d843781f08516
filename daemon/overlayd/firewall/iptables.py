"""Rules read by `iptables-save` and written by `iptables-restore`, of whichever variant (legacy, nft) is installed.

`command` is the name without `-save` or `-restore`: iptables, ip6tables, iptables-legacy …
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from overlayd.errors import CommandFailed
from overlayd.firewall.chains import Ruleset
from overlayd.firewall.diff import Tables, changes, read, restore_input
from overlayd.firewall.dropped import chain_of_iptables, note, written_again
from overlayd.kernel import policies
from overlayd.lib import process
from overlayd.lib.iptables_save import packets
from overlayd.lib.marks import ours

COMMANDS = {4: "iptables", 6: "ip6tables"}
# The first with `iptables-restore --wait` and `--random-fully`. CentOS 7 has 1.4.21.
_MODERN = (1, 6, 2)
_LOCK_WAIT_S = 5


def installed(command: str) -> bool:
    """Whether the command is installed."""
    return shutil.which(f"{command}-restore") is not None


def kinds(version: int) -> list[str]:
    """The installed commands of one IP version, one for each variant (legacy, nft): first the one that is used."""
    found: dict[str, str] = {}
    for command in (COMMANDS[version], f"{COMMANDS[version]}-nft", f"{COMMANDS[version]}-legacy"):
        if installed(command) and shutil.which(f"{command}-save") is not None:
            found.setdefault(_kind(command), command)
    return list(found.values())


def may_have_rules(command: str) -> bool:
    """Whether there may be rules of that command's variant: legacy iptables has none before it has a table."""
    return _kind(command) != "legacy" or policies.has_legacy_iptables()


def sync(command: str, desired: Ruleset) -> bool:
    """Write the desired rules, and remove all others of ours. Returns whether anything had to be written.

    Idempotent. Raises CommandFailed; each table then has the old rules or the desired ones.
    """
    lines = changes(desired, _read(command))
    # The version is asked for only where something differs, so that an unchanged state costs one command.
    if lines and not _modern(command):
        lines = changes(_without_random_fully(desired), _read(command))
    if not lines:
        return False
    _restore(command, restore_input(lines))
    # `:NAME` empties a chain that exists.
    emptied = (chain_of_iptables(table, line.split()[0]) for table in lines for line in lines[table] if line[0] == ":")
    written_again(command, [label for label in emptied if label is not None])
    return True


def close_forward(command: str) -> None:
    """Give the chain FORWARD the policy DROP. Raises CommandFailed."""
    _restore(command, "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n")


def has_nat(command: str) -> bool:
    """Whether the kernel has the nat table of that IP version."""
    try:
        process.run([command, "-t", "nat", "-S", "POSTROUTING"])
    except CommandFailed:
        return False
    return True


def remove(command: str) -> Iterator[str]:
    """Remove every chain and jump of ours, also those of a crashed run. Yields each chain. Raises CommandFailed."""
    there = _read(command)
    sync(command, Ruleset())
    for table, chains in there.items():
        for name in chains:
            if name.startswith(ours().chains):
                yield f"{command} chain {name} of table {table}"


def without_nat(rules: Ruleset) -> Ruleset:
    """The same rules for a kernel without the nat table."""
    return Ruleset(
        chains=tuple(chain for chain in rules.chains if chain.table != "nat"),
        jumps=tuple(jump for jump in rules.jumps if jump.table != "nat"),
    )


def _read(command: str) -> Tables:
    saved = process.run([f"{command}-save", "-c"])
    note(command, _dropped(saved))
    return read(saved)


def _dropped(saved: str) -> Iterator[tuple[str, int]]:
    for table, chain, rule, count in packets(saved):
        if chain.startswith(ours().chains) and rule.endswith("-j DROP"):
            label = chain_of_iptables(table, chain)
            if label is not None:
                yield label, count


def _restore(command: str, text: str) -> None:
    argv = [f"{command}-restore", "--noflush"]
    if _modern(command):
        argv += ["--wait", str(_LOCK_WAIT_S)]
    process.run(argv, input=text)


def _kind(command: str) -> str:
    """The command's variant, by the program that it is a link to, or else by its own words.

    Files of two packages may be the same variant.
    """
    program = Path(shutil.which(command) or command).resolve().name
    for kind in ("nft", "legacy"):
        if program == f"xtables-{kind}-multi":
            return kind
    try:
        return "nft" if "nf_tables" in process.run([command, "--version"]) else "legacy"
    except CommandFailed:
        return command


def _modern(command: str) -> bool:
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", process.run([command, "--version"]))
    return found is not None and tuple(map(int, found.groups())) >= _MODERN


def _without_random_fully(rules: Ruleset) -> Ruleset:
    chains = tuple(
        replace(chain, rules=tuple(rule.replace(" --random-fully", "") for rule in chain.rules))
        for chain in rules.chains
    )
    return replace(rules, chains=chains)

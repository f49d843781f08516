"""All firewall rules on this host, whoever wrote them, as ruleset/ walks them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable

from overlayd.errors import CommandFailed
from overlayd.firewall import iptables
from overlayd.firewall.rules import VERSIONS
from overlayd.lib import process
from overlayd.lib.iptables_save import parse
from overlayd.ruleset import nftables
from overlayd.ruleset.nftables import BaseChain
from overlayd.ruleset.packet_path import IptablesRules


def read_iptables(versions: Collection[int] = VERSIONS) -> tuple[IptablesRules, ...]:
    """The rules of each variant of iptables that is installed, the one in use first."""
    return tuple(_read(command, version) for version in versions for command in _commands(version))


def read_nftables(kinds: Iterable[IptablesRules]) -> tuple[BaseChain, ...] | None:
    """The base chains of nftables that none of these shows; None where they could not be read."""
    if shutil.which("nft") is None:
        # Rules may be there all the same; but where nobody has the tool, hardly anybody wrote them.
        return ()
    try:
        found = json.loads(process.run(["nft", "-j", "list", "ruleset"]))["nftables"]
        listing = process.run(["nft", "-a", "list", "ruleset"])
    except (CommandFailed, ValueError, KeyError):
        return None
    shown = {name for kind in kinds if _is_nft(kind.command) for name in _shown(kind)}
    bases = nftables.parse((item for item in found if isinstance(item, dict)), listing)
    return tuple(base for base in bases if f"{base.family} {base.table}" not in shown)


def _commands(version: int) -> list[str]:
    """The installed kinds of iptables, and the usual one in any case: that it is not there has to be said."""
    found = iptables.kinds(version)
    return found or ([iptables.COMMANDS[version]] if version == 4 else [])


def _read(command: str, version: int) -> IptablesRules:
    try:
        return IptablesRules(command=command, version=version, tables=parse(process.run([f"{command}-save"])))
    except CommandFailed as error:
        return IptablesRules(command=command, version=version, problem=error.message.splitlines()[-1].strip())


def _is_nft(command: str) -> bool:
    try:
        return "nf_tables" in process.run([command, "--version"])
    except CommandFailed:
        return False


def _shown(kind: IptablesRules) -> set[str]:
    """The tables of nftables that are these; one that holds what iptables cannot show is not among them."""
    return {f"{'ip' if kind.version == 4 else 'ip6'} {name}" for name in kind.tables or ()}

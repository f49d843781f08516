"""Our tables in nftables, read and written by `nft`: written where `table.matches` finds a difference."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import lru_cache

from overlayd.errors import CommandFailed
from overlayd.firewall.dropped import note, written_again
from overlayd.firewall.table import FAMILIES, NftTable, dropped, matches, removal, sets, tables, write
from overlayd.kernel import policies
from overlayd.lib import process
from overlayd.lib.kept import Identity, identity
from overlayd.lib.marks import ours

_NAT_CHAIN = "type nat hook postrouting priority 100;"


def installed() -> bool:
    """Whether the command nft is installed."""
    return shutil.which("nft") is not None


def sync(version: int, desired: NftTable | None) -> bool:
    """Write the desired table of that IP version, or remove it for None. Returns whether anything had to be written.

    Idempotent, and one transaction: no packet meets a part of it. Raises CommandFailed; the table is then as it was.
    """
    family = FAMILIES[version]
    exists = table_exists(version)
    if desired is None:
        if exists:
            process.run(["nft", "-f", "-"], input=removal(family))
        return exists
    if exists:
        listing = _nft("list", "table", family, ours().name)
        note(f"nftables {family}", dropped(listing))
        if matches(desired, listing):
            return False
    process.run(["nft", "-f", "-"], input=write(desired))
    written_again(f"nftables {family}")
    return True


def table_exists(version: int) -> bool:
    """Whether the kernel has our table of that IP version. Raises CommandFailed."""
    generation = policies.nftables_generation()
    there = _tables() if generation is None else _tables_at(identity("/proc/thread-self/ns/net"), generation)
    return (FAMILIES[version], ours().name) in there


@lru_cache(maxsize=1)
def _tables_at(_namespace: Identity | None, _generation: int) -> frozenset[tuple[str, str]]:
    """The tables; not asked for again while the kernel's rules are the same. A start asks four times."""
    return _tables()


def _tables() -> frozenset[tuple[str, str]]:
    return frozenset(tables(_nft("list", "tables")))


def members(version: int) -> dict[str, set[str]]:
    """The elements of each set of our table of that IP version, by set name. Raises CommandFailed."""
    family = FAMILIES[version]
    return sets(_nft("list", "table", family, ours().name)) if table_exists(version) else {}


def has_nat(version: int) -> bool:
    """Whether the kernel has NAT for that IP version. Changes nothing."""
    try:
        text = f"table {FAMILIES[version]} {ours().name}-probe {{ chain nat {{ {_NAT_CHAIN} }}; }}\n"
        process.run(["nft", "--check", "-f", "-"], input=text)
    except CommandFailed:
        return False
    return True


def remove() -> Iterator[str]:
    """Remove our tables of both families. Yields each of them. Raises CommandFailed."""
    for version, family in FAMILIES.items():
        if sync(version, None):
            yield f"nftables table {family} {ours().name}"


def _nft(*words: str) -> str:
    return process.run(["nft", "-j", *words])

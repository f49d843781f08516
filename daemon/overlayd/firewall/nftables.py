"""Our tables in nftables, read and written by `nft`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from overlayd.errors import CommandFailed
from overlayd.firewall.table import FAMILIES, NftTable, matches, removal, sets, tables, write
from overlayd.lib import process
from overlayd.lib.marks import ours

_NAT_CHAIN = "type nat hook postrouting priority 100;"


def installed() -> bool:
    """Whether there is an nft."""
    return shutil.which("nft") is not None


def sync(version: int, wanted: NftTable | None) -> bool:
    """Make the table of that IP version as wanted, or gone; whether anything had to be written.

    Idempotent, and one transaction: no packet sees half of it. Raises CommandFailed; the table is then as it was.
    """
    family = FAMILIES[version]
    there = stands(version)
    if wanted is None:
        if there:
            process.run(["nft", "-f", "-"], input=removal(family))
        return there
    if there and matches(wanted, _nft("list", "table", family, ours().name)):
        return False
    process.run(["nft", "-f", "-"], input=write(wanted))
    return True


def stands(version: int) -> bool:
    """Whether the table of that IP version is there. Raises CommandFailed."""
    return (FAMILIES[version], ours().name) in tables(_nft("list", "tables"))


def members(version: int) -> dict[str, set[str]]:
    """What is in each set of the table of that IP version, by its name; none without one. Raises CommandFailed."""
    family = FAMILIES[version]
    return sets(_nft("list", "table", family, ours().name)) if stands(version) else {}


def has_nat(version: int) -> bool:
    """Whether the kernel can translate addresses of that IP version. Changes nothing."""
    try:
        text = f"table {FAMILIES[version]} {ours().name}-probe {{ chain nat {{ {_NAT_CHAIN} }}; }}\n"
        process.run(["nft", "--check", "-f", "-"], input=text)
    except CommandFailed:
        return False
    return True


def remove() -> Iterator[str]:
    """Remove the tables of both families; name what was removed. Raises CommandFailed."""
    for version, family in FAMILIES.items():
        if sync(version, None):
            yield f"nftables table {family} {ours().name}"


def _nft(*words: str) -> str:
    return process.run(["nft", "-j", *words])

"""The parts that the RPM bundles, also those that are linked into others, and their licences. Pure: values in and out.

The licences are in rpm/licenses/parts.toml. A part of an inventory that is not in that table is an error. This module
is imported in the freezer image too: standard library only.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

OWN = "Apache-2.0"


class UnknownPart(ValueError):
    """Parts are bundled that the table of licences lacks. The message names all of them."""


@dataclass(frozen=True, kw_only=True)
class BundledPart:
    """A row of the table. `inside` names the distribution that it is linked into, `source` its folder there.

    `files` are overlayd's own files of the frozen program, where these have another licence than the rest of it.
    """

    name: str
    spdx: str
    why: str
    packages: tuple[str, ...] = ()
    inside: str | None = None
    source: str = ""
    files: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows; and for those with `inside` the versions of distributions that they are true of."""

    parts: tuple[BundledPart, ...]
    versions: Mapping[str, str]


def load(text: str) -> Table:
    """The table in the text of parts.toml."""
    found = tomllib.loads(text)
    rows: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()} for row in found["part"]
    ]
    return Table(parts=tuple(BundledPart(**row) for row in rows), versions=found["versions"])


def bundled(inventory: Mapping[str, Any], table: Table) -> list[BundledPart]:
    """The rows of the table for the parts of an inventory, sorted by name. Raises UnknownPart."""
    distributions = {plain(found["name"]): found["version"] for found in inventory["distributions"]}
    packages = {found["package"]["name"] for found in inventory["libraries"]}
    own = set(inventory["own"])
    parts = [part for part in table.parts if _holds(part, distributions, packages, own)]
    unknown = [*_unknown(inventory, parts, distributions, packages), *_changed(table, distributions)]
    if unknown:
        raise UnknownPart(f"rpm/licenses/parts.toml does not tell the licences of {'; '.join(unknown)}")
    return sorted(parts, key=lambda part: part.name.lower())


def expression(parts: Iterable[BundledPart]) -> str:
    """The licences of the whole package as one SPDX expression: overlayd's own, and those of all parts."""
    found = {clause for part in parts for clause in clauses(part.spdx)} - {OWN}
    return " AND ".join([OWN, *sorted(found, key=str.lower)])


def clauses(spdx: str) -> list[str]:
    """The clauses that AND joins in an expression; a clause with OR is in parentheses."""
    parts = re.split(r" AND (?![^(]*\))", spdx)
    return [f"({part})" if " OR " in part and not part.startswith("(") else part for part in parts]


def plain(name: str) -> str:
    """A distribution's name in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _holds(part: BundledPart, distributions: Mapping[str, str], packages: set[str], own: set[str]) -> bool:
    if part.files:
        return bool(own & set(part.files))
    if part.packages:
        return bool(packages & set(part.packages))
    return plain(part.inside or part.name) in distributions


def _unknown(
    inventory: Mapping[str, Any], parts: Iterable[BundledPart], distributions: Mapping[str, str], packages: set[str]
) -> Iterator[str]:
    known = {plain(part.name) for part in parts if not part.packages and not part.inside and not part.files}
    yield from (f"the distribution {name}" for name in sorted(distributions.keys() - known))
    of_packages = {name for part in parts for name in part.packages}
    yield from (f"the package {name}" for name in sorted(packages - of_packages))
    of_files = {name for part in parts for name in part.files}
    yield from (f"the file {name}" for name in sorted(set(inventory["own"]) - of_files))
    linked = {part.source or part.name for part in parts if part.inside}
    yield from (f"{name}, which is linked into an extension" for name in sorted(set(inventory["linked"]) - linked))
    yield from inventory["unknown"]


def _changed(table: Table, distributions: Mapping[str, str]) -> Iterator[str]:
    for name, version in sorted(table.versions.items()):
        if distributions.get(name, version) != version:
            yield f"what is linked into {name} {distributions[name]}, only of {version}"

"""Reads dpkg's database of a root filesystem: packages, dependencies, and the files of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# RPMs do not have the scripts of Debian's packages, so they need nothing that only scripts need: databases of answers,
# helpers that enable services, tools that add users. The root filesystem has what the scripts did.
ONLY_FOR_SCRIPTS = frozenset(
    {"adduser", "apt", "debconf", "dpkg", "init-system-helpers", "install-info", "ucf", "usr-is-merged"}
)
# Every Debian system has these, so no package states that it needs them. Among the RPMs base-files requires those that
# the suite has.
ESSENTIAL = ("bsdutils", "dash", "debianutils", "diffutils", "grep", "libc-bin", "ncurses-base", "ncurses-bin", "sed")
# /bin, /sbin and /lib* are links into /usr, and dpkg's lists have paths that lead through these links.
_MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """One installed Debian package. `requires` are names of installed packages: of alternatives, the installed one."""

    name: str
    epoch: int
    version: str
    release: str
    summary: str
    arch: str
    requires: tuple[str, ...]
    provides: tuple[str, ...]
    files: frozenset[str]
    config: frozenset[str]

    @property
    def full_version(self) -> str:
        """Epoch, version and release, as RPM writes them."""
        return f"{self.epoch}:{self.version}-{self.release}"


def installed(root: Path) -> list[DebianPackage]:
    """All packages installed in a root filesystem, by name. Paths are as on disk: below /usr where dpkg says /bin."""
    admin = root / "var/lib/dpkg"
    stanzas = [s for s in _stanzas((admin / "status").read_text()) if s.get("Status", "").endswith(" installed")]
    provided = _providers(stanzas)
    essential = tuple(name for name in ESSENTIAL if name in provided)
    packages = []
    for stanza in stanzas:
        name = stanza["Package"]
        epoch, version, release = split_version(stanza["Version"])
        packages.append(
            DebianPackage(
                name=name,
                epoch=epoch,
                version=version,
                release=release,
                summary=stanza.get("Description", name).splitlines()[0],
                arch=stanza["Architecture"],
                requires=(*_requires(stanza, provided), *(essential if name == "base-files" else ())),
                provides=tuple(sorted(set(_names(stanza.get("Provides", ""))) - {name})),
                files=frozenset(map(merged, _lines(admin, name, stanza["Architecture"], "list"))),
                config=frozenset(map(merged, _lines(admin, name, stanza["Architecture"], "conffiles"))),
            )
        )
    return sorted(packages, key=lambda package: package.name)


def merged(path: str) -> str:
    """A path as it is on disk: `/bin/ls` of a package is `/usr/bin/ls`."""
    for prefix in _MERGED:
        if path == prefix or path.startswith(f"{prefix}/"):
            return f"/usr{path}"
    return path


def split_version(version: str) -> tuple[int, str, str]:
    """Epoch, version and release of a Debian version. A package of Debian's own has no release: it gets 1.

    RPM allows no hyphen inside a version; Debian does, and there it becomes a dot.
    """
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, hyphen, release = rest.rpartition("-")
    if not hyphen:
        upstream, release = rest, "1"
    return int(epoch), upstream.replace("-", "."), release


def _requires(stanza: Mapping[str, str], provided: Mapping[str, str]) -> Iterator[str]:
    seen = {stanza["Package"], *ONLY_FOR_SCRIPTS}
    for field in ("Pre-Depends", "Depends"):
        for clause in filter(None, stanza.get(field, "").split(",")):
            # The first alternative that is installed: dpkg installs no package without one.
            chosen = next((provided[name] for name in _names(clause, separator="|") if name in provided), None)
            if chosen is not None and chosen not in seen:
                seen.add(chosen)
                yield chosen


def _providers(stanzas: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The installed package for every name that one of them has or provides; the real name wins."""
    found: dict[str, str] = {}
    for stanza in stanzas:
        for name in _names(stanza.get("Provides", "")):
            found.setdefault(name, stanza["Package"])
    found.update({stanza["Package"]: stanza["Package"] for stanza in stanzas})
    return found


def _names(text: str, separator: str = ",") -> list[str]:
    """Names out of `libc6 (>= 2.34), dbus:any | x`: no versions, no architectures."""
    words = (re.match(r"\s*([a-z0-9][a-z0-9.+-]*)", part) for part in text.split(separator))
    return [word[1] for word in words if word]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for block in text.split("\n\n"):
        stanza: dict[str, str] = {}
        field = ""
        for line in block.splitlines():
            if line[:1].isspace():
                stanza[field] += "\n" + line.strip()
            elif ":" in line:
                field, _, value = line.partition(":")
                stanza[field] = value.strip()
        if stanza:
            yield stanza


def _lines(admin: Path, name: str, arch: str, kind: str) -> list[str]:
    for file in (admin / "info" / f"{name}.{kind}", admin / "info" / f"{name}:{arch}.{kind}"):
        if file.exists():
            # The mark on a conffile that a later version removes.
            return [line.removeprefix("remove-on-upgrade ") for line in file.read_text().splitlines() if line.strip()]
    return []

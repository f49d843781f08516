"""Where a Debian suite's packages come from: the apt sources of this machine, or the mirrors that were given."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from images.bases import keys, mirror_probe
from images.bases.base import Base
from images.bases.debian.suite import DebianSuite
from images.engine import process
from images.engine.errors import BuildError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# The sites of these bases. They have no URL of their own: without a mirror the sources of this machine are used.
SITES = {"debian": "", "security": ""}
# What follows the name of a suite in the names of the archives that belong to it: itself, its updates, its security
# updates. Others, such as backports, are not every suite's.
_PARTS = ("", "-updates", "-security")
_TIMEOUT_S = 5.0


def lines(suite: DebianSuite, base: Base) -> tuple[str, ...]:
    """Lines of sources.list: `deb URI suite main`. Raises BuildError as `lines_of` does."""
    if shutil.which("apt-get") is None or shutil.which("mmdebstrap") is None:
        raise BuildError(f"{suite.base} is made with apt and mmdebstrap, and this machine lacks them")
    return lines_of(suite.codename, base)


def lines_of(codename: str, base: Base) -> tuple[str, ...]:
    """The same for any suite, by its codename. Raises BuildError when this machine has no sources of Debian.

    Where this machine has sources of other suites only, its mirrors are asked for this one: a mirror has all of them.
    With a mirror that was given the sources of this machine are not used at all.
    """
    return _given(codename, base) if base.mirrors else of_suite(codename, _archives())


def mirror() -> str:
    """The URL of this machine's mirror of Debian, which has all suites. Raises BuildError when its apt names none."""
    return next(uri for uri, name in sorted(_archives()) if name == _suite(name))


def of_suite(codename: str, archives: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The lines for a suite, out of the archives of this machine: URL and name of each, as `bookworm-security`."""
    found = list(archives)
    own = {(uri, name) for uri, name in found if _suite(name) == codename}
    moved = {(uri, codename + part) for uri, name in found for part in _PARTS if name == _suite(name) + part}
    return tuple(sorted(f"deb {uri} {name} main" for uri, name in own or moved))


def _archives() -> set[tuple[str, str]]:
    """Debian's archives of which this machine's apt has lists: URL and name of each."""
    rows = process.capture(
        ["apt-get", "indextargets", "--format", "$(CREATED_BY)|$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)"],
        # APT_CONFIG may name the sources of a machine.
        base_env=os.environ,
    ).splitlines()
    found = {
        (uri.rstrip("/"), name)
        for created, origin, uri, name, component in (row.split("|") for row in rows if row.count("|") == 4)
        if created == "Packages" and origin == "Debian" and component == "main"
    }
    if not any(name == _suite(name) for _, name in found):
        raise BuildError(
            "this machine's apt has no lists of Debian's packages",
            hint="on a Debian machine `apt-get update` fetches them; elsewhere --mirror debian=URL, or another base",
        )
    return found


def _suite(archive: str) -> str:
    return archive.partition("-")[0]


def questions(suite: DebianSuite, base: Base) -> tuple[str, ...]:
    """The URLs that answer when Debian's mirror can be reached. Raises BuildError when this machine knows of none."""
    found = lines(suite, base)
    main = [line for line in found if line.split()[2] == suite.codename] or list(found[:1])
    asked = [*main, *(line for line in found if base.mirrors and line not in main)]
    return tuple(f"{uri}/dists/{name}/InRelease" for _, uri, name, _ in map(str.split, asked))


def keyring(suite: DebianSuite) -> bytes:
    """Debian's keys for this suite out of this machine's keyring. Raises BuildError when it lacks them."""
    if not KEYRING.exists():
        raise BuildError(f"there is no {KEYRING}", hint="it is in the package debian-archive-keyring")
    return keys.picked(KEYRING, suite.fingerprints)


def _given(codename: str, base: Base) -> tuple[str, ...]:
    main, security = base.mirrors.get("debian", ""), base.mirrors.get("security", "")
    if not main:
        raise BuildError(
            "there is a mirror for Debian's security updates, and none for Debian", hint="--mirror debian=URL"
        )
    found = [(main, codename)]
    if mirror_probe.problem(f"{main.rstrip('/')}/dists/{codename}-updates/InRelease", _TIMEOUT_S) is None:
        found.append((main, f"{codename}-updates"))
    if security:
        found.append((security, f"{codename}-security"))
    return tuple(f"deb {uri.rstrip('/')} {name} main" for uri, name in found)

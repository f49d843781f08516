"""Where Debian 12's packages come from: the apt sources of this machine, or the mirrors that were given."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from images.bases import keys, mirror_probe
from images.bases.base import Base
from images.engine import process
from images.engine.errors import BuildError

CODENAME = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Debian's keys for this release, as ftp-master.debian.org/keys.html lists them: its archive, security, and release key.
FINGERPRINTS = (
    "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8",
    "05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0",
    "4D64FEC119C2029067D6E791F8D2585B8783D481",
)
# The sites of debian12-rpm. They have no URL of their own: without a mirror the sources of this machine are used.
SITES = {"debian": "", "security": ""}
_TIMEOUT_S = 5.0


def lines(base: Base) -> tuple[str, ...]:
    """Lines of sources.list: `deb URI suite main`. Raises BuildError when this machine has no sources of Debian 12.

    With a mirror the sources of this machine are not used at all.
    """
    if shutil.which("apt-get") is None or shutil.which("mmdebstrap") is None:
        raise BuildError("debian12-rpm is made with apt and mmdebstrap, and this machine lacks them")
    if base.mirrors:
        return _given(base)
    rows = process.capture(
        ["apt-get", "indextargets", "--format", "$(CREATED_BY)|$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)"],
        # APT_CONFIG may name the sources of a machine.
        base_env=os.environ,
    ).splitlines()
    found = {
        f"deb {uri.rstrip('/')} {codename} {component}"
        for created, origin, uri, codename, component in (row.split("|") for row in rows if row.count("|") == 4)
        if created == "Packages"
        and origin == "Debian"
        and codename.partition("-")[0] == CODENAME
        and component == "main"
    }
    if not found:
        raise BuildError(
            "this machine's apt has no lists of Debian 12's packages",
            hint="on a Debian 12 machine `apt-get update` fetches them; elsewhere --mirror debian=URL, or another base",
        )
    return tuple(sorted(found))


def questions(base: Base) -> tuple[str, ...]:
    """The URLs that answer when Debian's mirror can be reached. Raises BuildError when this machine knows of none."""
    found = lines(base)
    main = [line for line in found if line.split()[2] == CODENAME] or list(found[:1])
    asked = [*main, *(line for line in found if base.mirrors and line not in main)]
    return tuple(f"{uri}/dists/{suite}/InRelease" for _, uri, suite, _ in map(str.split, asked))


def keyring() -> bytes:
    """Debian's keys for this release out of this machine's keyring. Raises BuildError when it lacks them."""
    if not KEYRING.exists():
        raise BuildError(f"there is no {KEYRING}", hint="it is in the package debian-archive-keyring")
    return keys.picked(KEYRING, FINGERPRINTS)


def _given(base: Base) -> tuple[str, ...]:
    main, security = base.mirrors.get("debian", ""), base.mirrors.get("security", "")
    if not main:
        raise BuildError(
            "there is a mirror for Debian's security updates, and none for Debian", hint="--mirror debian=URL"
        )
    found = [(main, CODENAME)]
    if mirror_probe.problem(f"{main.rstrip('/')}/dists/{CODENAME}-updates/InRelease", _TIMEOUT_S) is None:
        found.append((main, f"{CODENAME}-updates"))
    if security:
        found.append((security, f"{CODENAME}-security"))
    return tuple(f"deb {uri.rstrip('/')} {suite} main" for uri, suite in found)

"""What differs between suites of Debian, as a value: a module of the catalogue has one for each base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from images.engine.graph import CACHE


@dataclass(frozen=True, kw_only=True)
class DebianSuite:
    """A suite of Debian of which a base is made.

    `base` is the base's name. `release` is the number of the release, also of one that is not out yet. `fingerprints`
    are those of the keys that the suite is signed with, as ftp-master.debian.org/keys.html lists them; one good
    signature is enough. `python` is the command of the Python that freezes the program, which is in the package of that
    name. `packages` are more packages than every suite has, by Debian's names. `dated` says whether an index that is
    older than it says itself is an error: that of testing is valid for a week, and a mirror may have an older one.
    """

    base: str
    title: str
    codename: str
    release: str
    fingerprints: tuple[str, ...]
    python: str
    packages: tuple[str, ...] = ()
    dated: bool = True

    @property
    def fetched(self) -> Path:
        """The folder of the suite's fetched packages, below the build folder."""
        return CACHE / self.base.removesuffix("-rpm")

    @property
    def root(self) -> Path:
        """The root filesystem with all packages, below the build folder."""
        return CACHE / "bases" / self.base / "root"

    @property
    def versions(self) -> Path:
        """A file with the versions of all packages in `root`."""
        return CACHE / "bases" / self.base / "debian.json"

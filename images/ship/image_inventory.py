"""What an image holds: the packages in its RPM database, and the files that no package owns."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from images.engine import process, sandbox
from images.engine.errors import BuildError
from images.engine.oci import Image, Layout
from images.ship.tree import Tree, TreeEntry

# The folder of EL 9, and of Debian's rpm with our macro; that of EL 10.
_DATABASES = ("var/lib/rpm", "usr/lib/sysimage/rpm")
_FIELDS = ("name", "epoch", "version", "release", "arch", "license", "vendor", "url", "sourcerpm", "sha256header")
_QUERY = "\\t".join(f"%{{{field}}}" for field in _FIELDS) + "\\n"
# One path a line: no package of ours has a line break in a path.
_FILES_QUERY = "[%{FILENAMES}\\n]"
_DIGESTS_QUERY = "[%{=NAME}-%{=EPOCH}:%{=VERSION}-%{=RELEASE}.%{=ARCH}\\t%{FILENAMES}\\t%{FILEDIGESTS}\\n]"
_NONE = "(none)"
_KEY = "gpg-pubkey"


@dataclass(frozen=True, kw_only=True, order=True)
class RpmPackage:
    """A package as its RPM header describes it; fields that it lacks are empty. `digest` is the header's SHA-256."""

    name: str
    epoch: str = ""
    version: str
    release: str
    arch: str
    license: str = ""
    vendor: str = ""
    url: str = ""
    source: str = ""
    digest: str = ""

    @property
    def evr(self) -> str:
        """Epoch, version and release as rpm writes them: `2:1.0-3`, `1.0-3`."""
        return f"{self.epoch}:{self.version}-{self.release}" if self.epoch else f"{self.version}-{self.release}"


@dataclass(frozen=True, kw_only=True, order=True)
class ImageFile:
    """A file by its absolute path, its SHA-256 in hexadecimal, and its size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class ImageInventory:
    """What an image holds: whole packages; packages of which it has some files; files of no package. All sorted."""

    packages: tuple[RpmPackage, ...]
    partial: tuple[RpmPackage, ...]
    files: tuple[ImageFile, ...]


def read(layout: Layout, image: Image, repository: Path | None) -> ImageInventory:
    """What an image holds. `repository` is a folder with the packages that it was made from.

    In an image without an RPM database each file is assigned to the package that has it, by path and content.
    Raises BuildError.
    """
    sandbox.require("rpm")
    tree = Tree(layout.blob(layer.digest) for layer in image.layers)
    with tempfile.TemporaryDirectory(prefix="overlayd-rpmdb-") as place:
        database = Path(place)
        found = _extract_database(tree, database)
        packages = _query(["rpm", "--dbpath", database, "-qa", "--queryformat", _QUERY]) if found else ()
        listed = process.capture(["rpm", "--dbpath", database, "-qa", "--queryformat", _FILES_QUERY]) if found else ""
    owned = {tree.real(path) for path in listed.splitlines()}
    left = [(path, entry) for path, entry in tree.files() if tree.real(path) not in owned]
    files = [ImageFile(path=f"/{path}", sha256=tree.sha256(entry), size=entry.size) for path, entry in left]
    partial: tuple[RpmPackage, ...] = ()
    if not found and repository is not None:
        partial, files = _attribute(tree, files, sorted(repository.rglob("*.rpm")))
    return ImageInventory(packages=packages, partial=partial, files=tuple(files))


def of_rpm(rpm: Path) -> RpmPackage:
    """The package in an RPM file. Raises BuildError."""
    [package] = _query(["rpm", "-qp", "--nosignature", "--queryformat", _QUERY, rpm])
    return package


def parse(rows: str) -> tuple[RpmPackage, ...]:
    """Packages out of the lines of our query, sorted. Imported keys, which rpm lists too, are skipped."""
    found = []
    for row in rows.splitlines():
        values = ["" if value == _NONE else value for value in row.split("\t")]
        name, epoch, version, release, arch, licence, vendor, url, source, digest = values
        if name != _KEY:
            found.append(
                RpmPackage(
                    name=name,
                    epoch=epoch,
                    version=version,
                    release=release,
                    arch=arch,
                    license=licence,
                    vendor=vendor,
                    url=url,
                    source=source,
                    digest=digest,
                )
            )
    return tuple(sorted(found))


def _query(command: Sequence[str | Path]) -> tuple[RpmPackage, ...]:
    return parse(process.capture(command))


def _extract_database(tree: Tree, to: Path) -> bool:
    found: list[tuple[str, TreeEntry]] = [file for folder in _DATABASES for file in tree.below(folder)]
    for path, entry in found:
        tree.extract(entry, to / Path(path).name)
    return any(re.search(r"/(rpmdb\.sqlite|Packages(\.db)?)$", path) for path, _ in found)


def _attribute(
    tree: Tree, files: Iterable[ImageFile], rpms: Sequence[Path]
) -> tuple[tuple[RpmPackage, ...], list[ImageFile]]:
    """The packages that files came from, by path and SHA-256, and the files that came from none."""
    if not rpms:
        return (), list(files)
    try:
        command = ["rpm", "-qp", "--nosignature", "--nodigest", "--queryformat"]
        rows = process.capture([*command, _DIGESTS_QUERY, *rpms]).splitlines()
        packages = {_label(package): package for package in _query([*command, _QUERY, *rpms])}
    except BuildError as error:
        raise BuildError(f"the packages in {rpms[0].parent} cannot be read: {error.message}") from error
    owners: dict[tuple[str, str], str] = {}
    for owner, path, digest in (row.split("\t") for row in rows):
        owners[tree.real(path), digest] = owner
    from_package = {file: owners.get((tree.real(file.path), file.sha256)) for file in files}
    used = {owner for owner in from_package.values() if owner}
    return (
        tuple(sorted(packages[owner] for owner in used)),
        [file for file, owner in from_package.items() if owner is None],
    )


def _label(package: RpmPackage) -> str:
    return f"{package.name}-{package.epoch or _NONE}:{package.version}-{package.release}.{package.arch}"

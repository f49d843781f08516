"""The licence texts of the packages that the probe's files came from."""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from images.bases.base import Base
from images.engine import process
from images.engine.step import Step

_QUERY = "[%{=NAME}\\t%{=SOURCERPM}\\t%{FILEFLAGS}\\t%{FILENAMES}\\n]"
_LICENCE = 1 << 7  # RPMFILE_LICENSE in rpm's rpmfiles.h
# Where Debian's copyright files say that the whole text of a licence is.
_REFERENCE = re.compile(r"/usr/share/common-licenses/[A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9]")


def add(step: Step, base: Base, full: Path, small: Path) -> None:
    """Copy to `small` the licence texts of the packages in `full` that its files came from. Raises BuildError."""
    rows = process.capture(["rpm", "--root", full, "--dbpath", base.rpm_dbpath, "-qa", "--queryformat", _QUERY])
    paths, missing = chosen(rows, _files(small))
    for path in sorted(paths):
        _copy(full, small, path)
    texts = [path for path in small.joinpath("usr/share/doc").rglob("copyright") if not path.is_symlink()]
    for path in sorted({name for text in texts for name in _REFERENCE.findall(text.read_text(errors="replace"))}):
        _copy(full, small, path)
    # These texts are files of a package as well, whose own licence files are copied now.
    paths, _ = chosen(rows, _files(small))
    for path in sorted(paths):
        _copy(full, small, path)
    if missing:
        step.report(f"no licence text in the packages {', '.join(missing)}, nor in others made of the same sources")


def _files(root: Path) -> set[str]:
    return {f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


def chosen(rows: str, there: Iterable[str]) -> tuple[set[str], list[str]]:
    """The licence files that belong to the files in `there`, and the names of packages that have none.

    A package without licence files gets those of packages made of the same sources: EL's subpackages need it.
    """
    wanted = set(there)
    licences: dict[str, set[str]] = defaultdict(set)
    of_source: dict[str, set[str]] = defaultdict(set)
    used: dict[str, str] = {}
    for row in rows.splitlines():
        name, source, flags, path = row.split("\t")
        if int(flags) & _LICENCE:
            licences[name].add(path)
            of_source[source].add(path)
        if path in wanted:
            used[name] = source
    found = {name: licences.get(name) or of_source.get(source, set()) for name, source in used.items()}
    return set().union(*found.values()), sorted(name for name, paths in found.items() if not paths)


def _copy(full: Path, small: Path, path: str) -> None:
    """Copy a file, all files of a folder, or a link and what it leads to. A path that does not exist is skipped."""
    source, place = full / path.lstrip("/"), small / path.lstrip("/")
    if source.is_symlink():
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(source.readlink())
        _copy(full, small, os.path.normpath(PurePosixPath(path).parent / source.readlink()))
    elif source.is_dir():
        for child in sorted(source.iterdir()):
            _copy(full, small, f"{path}/{child.name}")
    elif source.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, place)

"""Collects the licence texts of all parts of the RPM. Runs in the freezer image with the standard library only.

    python -m rpm.inventory.licences INVENTORY TEXTS OUT

INVENTORY is the file that collect.py wrote, TEXTS is rpm/licenses. OUT is a new folder. It has a folder `texts`, for
/usr/share/licenses/overlayd, with a folder for each part; and a file `expression`, the RPM's License field. When a part
has no text, the build stops and names it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from rpm.inventory import parts
from rpm.inventory.parts import BundledPart

# Where Debian's copyright files say that the whole text of a licence is.
_COMMON = Path("/usr/share/common-licenses")
_REFERENCE = re.compile(rf"{_COMMON}/([A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9])")
_NAMES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
_HEAD = """\
# Licences of what overlayd's package bundles

The package's License field joins all of them. Each part's texts are in the folder of its name; where one refers to
/usr/share/common-licenses, the text is in the folder common-licenses.

| part | licence | what it is |
|---|---|---|
"""


class NoText(RuntimeError):
    """Some parts have no licence text. The message names them."""


def collect(inventory: dict[str, Any], texts: Path, out: Path) -> None:
    """Make the folder `out`. Raises NoText."""
    found = [BundledPart(**part) for part in inventory["parts"]]
    place = out / "texts"
    place.mkdir(parents=True)
    for part in found:
        for source in _sources(part, texts):
            folder = place / part.name
            folder.mkdir(exist_ok=True)
            (folder / _free(folder, source)).write_bytes(source.read_bytes())
    _common(place)
    missing = [part.name for part in found if not any((place / part.name).glob("*"))]
    if missing:
        raise NoText(f"there is no licence text of {', '.join(missing)}")
    rows = (f"| {part.name} | {part.spdx} | {part.why} |\n" for part in found)
    (place / "README.md").write_text(_HEAD + "".join(rows))
    _link_twins(place)
    (out / "expression").write_text(parts.expression(found) + "\n")


def _sources(part: BundledPart, texts: Path) -> Iterator[Path]:
    if part.packages:
        yield from _of_packages(part)
    elif not part.inside and not part.files:
        yield from _of_distribution(part.name)
    yield from (texts / name for name in part.texts)


def _of_packages(part: BundledPart) -> list[Path]:
    """The licence files of those of a part's packages that are installed here, each once."""
    found: list[Path] = []
    for package in part.packages:
        # A licence file may be a link to a folder of another package: its files are taken.
        said = subprocess.run(
            ["rpm", "--query", "--licensefiles", package], capture_output=True, text=True, check=False
        )
        if said.returncode == 0:
            for path in map(Path, said.stdout.split()):
                files = sorted(path.iterdir()) if path.is_dir() else [path]
                found += [file.resolve() for file in files if file.is_file()]
    return sorted(set(found))


def _of_distribution(name: str) -> Iterator[Path]:
    for file in metadata.distribution(name).files or ():
        if ".dist-info" in file.parts[0] and _NAMES.match(file.name):
            yield Path(str(file.locate()))


def _free(folder: Path, source: Path) -> str:
    """A name for a file that is free in `folder`: its own, else that of its folder and its own."""
    return source.name if not (folder / source.name).exists() else f"{source.parent.name}-{source.name}"


def _common(place: Path) -> None:
    """Copy the whole texts that Debian's copyright files refer to."""
    named = {name for file in sorted(place.rglob("copyright")) for name in _REFERENCE.findall(file.read_text())}
    folder = place / _COMMON.name
    for name in sorted(named):
        if (_COMMON / name).is_file():
            folder.mkdir(exist_ok=True)
            shutil.copyfile(_COMMON / name, folder / name)


def _link_twins(place: Path) -> None:
    """Replace each text that another file has too by a link to that, if possible to one in common-licenses."""
    first: dict[bytes, Path] = {}
    files = (path for path in place.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: (path.parent.name != _COMMON.name, path)):
        twin = first.setdefault(path.read_bytes(), path)
        if twin != path:
            path.unlink()
            path.symlink_to(Path("..") / twin.relative_to(place))


def main(arguments: list[str]) -> int:
    """Write the folder; the exit status."""
    inventory, texts, out = map(Path, arguments)
    try:
        collect(json.loads(inventory.read_text()), texts, out)
    except NoText as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

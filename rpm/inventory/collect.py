"""Collects what the frozen program is made of. Runs in the freezer image, where PyInstaller can read its archives.

    python -m rpm.inventory.collect FROZEN WHEELHOUSE PARTS OUT    OUT: a JSON file, the same bytes for the same input

Every module and file of FROZEN is assigned to its origin: a distribution of the virtual environment, Python, a package
of this image, or overlayd itself. A file of none of these is named in `unknown`. PARTS is rpm/licenses/parts.toml with
the licences of all that was found; a part that it lacks stops the build.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from rpm.inventory import parts

PROGRAM = "overlayd"
INTERNAL = "_internal"
_FIELDS = ("name", "epoch", "version", "release", "arch", "license", "vendor", "sourcerpm", "sha256header")
# Modules of PyInstaller itself: scripts of the bootloader, and hooks that run before the program.
_PYINSTALLER = re.compile(r"pyi(boot|mod|_rth_)")
# Python's settings when it was built, which sysconfig reads. The platform is in the name, so Python does not list it.
_SETTINGS = "_sysconfigdata_"


def inventory(frozen: Path, wheelhouse: Path, table: parts.Table) -> dict[str, Any]:
    """The content of the folder of the frozen program, by its origin. Raises UnknownPart."""
    owners = _recorded()
    used: Counter[str] = Counter()
    unknown: list[str] = []
    standard: set[str] = set()
    # A folder without an __init__.py is an empty module (a namespace package).
    namespaces = {str(folder) for file in owners for folder in Path(file).parents}
    for module in _modules(frozen / PROGRAM):
        owner = _owner(module, owners)
        if owner:
            used[owner] += 1
        elif module.partition(".")[0] in sys.stdlib_module_names or module.startswith(_SETTINGS):
            standard.add(module)
        elif module.partition(".")[0] != PROGRAM and module.replace(".", "/") not in namespaces:
            unknown.append(f"module {module}")
    libraries = []
    own = []
    for path in sorted(p for p in (frozen / INTERNAL).rglob("*") if p.is_file()):
        name = str(path.relative_to(frozen / INTERNAL))
        if name in owners:
            used[owners[name]] += 1
        elif name == "base_library.zip":
            standard.add(
                name
            )  # the modules of the standard library with which the interpreter starts, packed by PyInstaller
        elif name.startswith(f"{PROGRAM}/"):
            own.append(name)
        elif (package := _package_of(path)) is not None:
            libraries.append({"file": name, **package})
        else:
            unknown.append(f"file {name}")
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "standard_modules": len(standard),
        "distributions": [_distribution(name, count, wheelhouse) for name, count in sorted(used.items())],
        "libraries": libraries,
        "own": own,
        "linked": sorted(_linked(frozen / INTERNAL)),
        "unknown": sorted(unknown),
    }
    found["parts"] = [asdict(part) for part in parts.bundled(found, table)]
    return found


def _linked(folder: Path) -> set[str]:
    """The names in paths `third_party/<name>/` that compiled extensions hold: sources that a project took from others.

    Some are missed: a path is in the extension only when the file has an assertion or a log message.
    """
    names = (re.findall(rb"third_party/([A-Za-z0-9_-]+)/", path.read_bytes()) for path in folder.rglob("*.so"))
    return {name.decode() for found in names for name in found}


def _modules(program: Path) -> Iterator[str]:
    """The Python modules inside the executable."""
    from PyInstaller.archive.readers import CArchiveReader  # noqa: PLC0415  # only the freezer has it

    archive = CArchiveReader(str(program))
    for name, entry in archive.toc.items():
        kind = entry[-1]
        if kind == "z":
            yield from sorted(archive.open_embedded_archive(name).toc)
        elif _PYINSTALLER.match(name):
            yield f"PyInstaller.{name}"


def _recorded() -> dict[str, str]:
    """The distribution of each file of the virtual environment, by its path below site-packages."""
    return {str(file): found.metadata["Name"] for found in metadata.distributions() for file in (found.files or ())}


def _owner(module: str, owners: dict[str, str]) -> str | None:
    if module.startswith("PyInstaller."):
        return owners.get("PyInstaller/__init__.py")
    path = module.replace(".", "/")
    return next((owners[path + suffix] for suffix in (".py", "/__init__.py") if path + suffix in owners), None)


def _distribution(name: str, parts: int, wheelhouse: Path) -> dict[str, Any]:
    version = metadata.version(name)
    stem = re.compile(re.sub(r"[-_.]+", "[-_.]+", re.escape(name).replace(r"\-", "-")) + "-" + re.escape(version), re.I)
    files = sorted(path for path in wheelhouse.iterdir() if stem.match(path.name))
    return {
        "name": name,
        "version": version,
        "parts": parts,
        "source": files[0].name if files else None,
        "sha256": _sha256(files[0]) if files else None,
    }


def _package_of(path: Path) -> dict[str, Any] | None:
    """The package that a shared library or an extension of Python was copied from; None when there is none."""
    for place in _places(path):
        query = "".join(f"%{{{field}}}\\t" for field in _FIELDS)
        said = subprocess.run(
            ["rpm", "-qf", "--queryformat", query, place], capture_output=True, text=True, check=False
        )
        if said.returncode == 0:
            values = said.stdout.split("\t")
            package = {k: v for k, v in zip(_FIELDS, values, strict=False) if v != "(none)"}
            return {"package": package, "sha256": _sha256(path), "unchanged": _sha256(place) == _sha256(path)}
    return None


def _places(path: Path) -> Iterator[Path]:
    """Where a file of this name is installed here, links followed."""
    if path.parent.name == "lib-dynload":
        yield from (place for folder in sys.path if (place := Path(folder, path.name)).is_file())
        return
    said = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    for line in said.stdout.splitlines():
        name, arrow, found = line.strip().partition(" => ")
        if arrow and name.split()[0] == path.name:
            yield Path(found).resolve()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    """Write the inventory; the exit status."""
    frozen, wheelhouse, table, out = map(Path, arguments)
    try:
        found = inventory(frozen, wheelhouse, parts.load(table.read_text()))
    except parts.UnknownPart as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

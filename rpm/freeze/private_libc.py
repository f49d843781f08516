"""Give a frozen program its own loader and C library, so that one build runs on every host of its architecture.

A program linked on one release needs that release's glibc or a newer one. Copied beside the program, the libraries it
was linked with come along; the program names its loader by an absolute path, so it works where it will be installed.
Runs in the builder image: standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

LOADER = "ld-linux-x86-64.so.2"
_ELF = b"\x7fELF"


class MissingLibrary(RuntimeError):
    """A library that something of the program needs is neither in its folder nor on this machine."""


def make_private(folder: Path, program: str, installed: Path, patchelf: Path) -> list[str]:
    """Copy loader and C libraries to `folder`/_internal and make `folder`/`program` use them once it is at `installed`.

    Returns the names of what was copied. Afterwards the program runs only from `installed`. Raises MissingLibrary,
    CalledProcessError.
    """
    internal = folder / "_internal"
    known = _system_libraries()
    copied: list[str] = []
    todo = [LOADER, *_needed(patchelf, *_elf_files(folder))]
    while todo:
        name = todo.pop()
        if (internal / name).exists():
            continue
        if name not in known:
            raise MissingLibrary(f"{name}, which {program} needs, is neither in {internal} nor known to ldconfig")
        shutil.copyfile(known[name], internal / name)
        (internal / name).chmod(0o755)
        copied.append(name)
        todo += _needed(patchelf, internal / name)
    # RPATH, not RUNPATH: it also counts for what the libraries themselves need.
    subprocess.run(
        [
            patchelf,
            "--set-interpreter",
            installed / "_internal" / LOADER,
            "--force-rpath",
            "--set-rpath",
            "$ORIGIN/_internal",
            folder / program,
        ],
        check=True,
    )
    return sorted(copied)


def _elf_files(folder: Path) -> Iterator[Path]:
    for root, _folders, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(len(_ELF)) == _ELF:
                        yield path


def _needed(patchelf: Path, *files: Path) -> set[str]:
    found: set[str] = set()
    for file in files:
        listed = subprocess.run([patchelf, "--print-needed", file], check=True, capture_output=True, text=True)
        found.update(listed.stdout.split())
    return found


def _system_libraries() -> dict[str, Path]:
    """The 64-bit libraries that the dynamic loader of this machine finds, by name."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True)
    found: dict[str, Path] = {}
    for line in listed.stdout.splitlines():
        # `	libc.so.6 (libc6,x86-64, OS ABI: Linux 3.2.0) => /lib/x86_64-linux-gnu/libc.so.6`
        description, arrow, path = line.partition(" => ")
        if arrow and "x86-64" in description:
            found.setdefault(description.split()[0], Path(path))
    return found

"""Gives a frozen program its own loader and C library, so that one build runs on every host of its architecture.

A program needs the glibc of the release that it was linked on, or a newer one. So that glibc is copied beside it. The
program names its loader by an absolute path, and runs only where it is to be installed.
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
    """A library that the program or one of its libraries needs is neither in its folder nor on this machine."""


def make_private(folder: Path, program: str, installed: Path, patchelf: Path) -> list[str]:
    """Copy loader and C libraries to `folder`/_internal and make `folder`/`program` use them once it is at `installed`.

    Returns the names of the copied files. Afterwards the program runs only from `installed`. Raises MissingLibrary,
    CalledProcessError.
    """
    internal = folder / "_internal"
    wanted: dict[str, Path] = {LOADER: _interpreter(folder / program, patchelf)}
    for file in _elf_files(folder):
        wanted |= _libraries(file, loader=wanted[LOADER], internal=internal)
    copied = sorted(name for name in wanted if not (internal / name).exists())
    for name in copied:
        shutil.copyfile(wanted[name], internal / name)
        (internal / name).chmod(0o755)
    # RPATH and not RUNPATH, as it holds for the libraries' own dependencies too.
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
    return copied


def _elf_files(folder: Path) -> Iterator[Path]:
    for root, _folders, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(len(_ELF)) == _ELF:
                        yield path


def _interpreter(program: Path, patchelf: Path) -> Path:
    said = subprocess.run([patchelf, "--print-interpreter", program], check=True, capture_output=True, text=True)
    return Path(said.stdout.strip())


def _libraries(file: Path, *, loader: Path, internal: Path) -> dict[str, Path]:
    """The libraries that a program or library loads, directly or not, with the files that this loader finds."""
    said = subprocess.run(
        [loader, "--library-path", internal, "--list", file], check=False, capture_output=True, text=True
    )
    found: dict[str, Path] = {}
    for line in said.stdout.splitlines():
        # `	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f…)`; the kernel's vdso has no path
        name, arrow, place = line.strip().partition(" => ")
        if arrow and place == "not found":
            raise MissingLibrary(f"{name}, which {file.name} needs, is neither in {internal} nor on this machine")
        if arrow:
            found[name] = Path(place.rpartition(" (")[0])
    return found

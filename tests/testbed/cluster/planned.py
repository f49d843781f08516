"""`python -m tests.testbed.cluster.planned FILE`: which targets the plan builds anew when a file changes.

It changes each file below images/ and rpm/ in each way, and puts it back. It writes into FILE, for each of these
changes, the targets whose own inputs differ then. It is a process of its own, started in the checkout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from images.bases import catalogue
from images.engine import inputs
from pipeline.targets import of_base


def append(file: Path) -> None:
    """One more line: of Python one that is run, else what most formats take for a comment."""
    with file.open("a") as opened:
        opened.write("\nX = 1\n" if file.suffix == ".py" else "\n# changed\n")


def flip_mode(file: Path) -> None:
    """Executable where it was not, and the other way round."""
    file.chmod(file.stat().st_mode ^ 0o111)


def make_link(file: Path) -> None:
    """A link to the same content."""
    aside = file.with_name(f"{file.name}.aside")
    file.rename(aside)
    file.symlink_to(aside.name)


CHANGES: Mapping[str, Callable[[Path], None]] = {"content": append, "mode": flip_mode, "link": make_link}


def files() -> list[str]:
    """The files of images/ and rpm/ that git has, but for links, which may lead out of the checkout."""
    listed = subprocess.run(["git", "ls-files", "images", "rpm"], check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if not Path(name).is_symlink()]


def _inputs(base: str) -> dict[str, inputs.Inputs]:
    for cached in (inputs._closure, inputs._imported, inputs._code_digest):
        cached.cache_clear()
    return {name: target.inputs for name, target in of_base(catalogue.get(base)).items()}


def main(to: Path, base: str) -> None:
    """Change each file in each way, and write down which targets have other inputs then."""
    before = _inputs(base)
    found: dict[str, dict[str, list[str]]] = {}
    for name in files():
        file = Path(name).resolve()
        content, mode = file.read_bytes(), file.stat().st_mode
        for what, change in CHANGES.items():
            change(file)
            now = _inputs(base)
            # Only what the files themselves change: the RPM's release says that there are changes.
            changed = [
                target
                for target, values in now.items()
                if any(values[key] != before[target].get(key) for key in values if key.startswith(("file ", "code ")))
            ]
            found.setdefault(name, {})[what] = sorted(changed)
            file.unlink()
            file.with_name(f"{file.name}.aside").unlink(missing_ok=True)
            file.write_bytes(content)
            file.chmod(mode)
    to.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

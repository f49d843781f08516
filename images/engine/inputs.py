"""What a target is made of, as names and digests; and one digest over all of them.

An input is a name a person recognizes (`file images/probe/README.md`, `packages`) and a digest of its content. A target
whose inputs have the same digests as last time is not built again; where they differ, the names say why.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

Inputs = Mapping[str, str]

_DIGEST_CHARS = 32
_SKIPPED = frozenset({"__pycache__"})


def digest(content: bytes) -> str:
    """The first 128 bits of SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()[:_DIGEST_CHARS]


def of_values(**values: object) -> dict[str, str]:
    """Digests of plain values. Anything JSON can say; a set is sorted first, so that its order does not count."""
    return {name: digest(json.dumps(value, sort_keys=True, default=_plain).encode()) for name, value in values.items()}


def of_files(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Digests of files, and of all files below folders, named by their path below `root`.

    Content and the executable bit count; times and owners do not. Compiled Python is skipped. A path that does not
    exist raises FileNotFoundError.
    """
    found: dict[str, str] = {}
    for path in paths:
        for file in sorted(_files(path)):
            if file.is_symlink():
                content = b"l" + str(file.readlink()).encode()
            else:
                content = (b"x" if os.access(file, os.X_OK) else b"-") + file.read_bytes()
            found[f"file {file.relative_to(root)}"] = digest(content)
    return found


def fingerprint(inputs: Inputs) -> str:
    """One digest over all inputs, whatever their order."""
    return digest(json.dumps(dict(inputs), sort_keys=True).encode())


def changed(before: Inputs | None, now: Inputs) -> str | None:
    """Why a target must be built again, in a few words; None when nothing changed.

    Names at most three inputs, so that the line stays a line.
    """
    if before is None:
        return "never built"
    different = sorted(name for name in now if before.get(name) != now[name])
    gone = sorted(name for name in before if name not in now)
    words = [f"{name} {'changed' if name in before else 'is new'}" for name in different]
    words += [f"{name} is gone" for name in gone]
    if not words:
        return None
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir() and not path.is_symlink():
        for folder, names, files in os.walk(path):
            names[:] = sorted(set(names) - _SKIPPED)
            yield from (Path(folder) / name for name in files if not name.endswith(".pyc"))
    elif path.is_symlink() or path.exists():
        yield path
    else:
        raise FileNotFoundError(path)


def _plain(value: object) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot make a digest of {value!r}")

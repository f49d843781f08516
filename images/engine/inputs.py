"""The inputs of a target, as names and values, and one digest over all of them.

An input is a name that a person recognizes (`file images/probe/README.md`, `tool dnf`) and a value, or a digest where
the value is long. A target is built again when an input is another than at its last build, and the name says why.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path

from images.engine import process
from images.engine.errors import BuildError

Inputs = Mapping[str, str]

# The latest time that an RPM can hold: 32 bits.
_LATEST = 2**32 - 1
_DIGEST_CHARS = 32
_DIGEST = re.compile(f"[0-9a-f]{{{_DIGEST_CHARS}}}")
_SKIPPED = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


def digest(content: bytes) -> str:
    """The first 128 bits of SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()[:_DIGEST_CHARS]


def of_values(**values: object) -> dict[str, str]:
    """Plain values: a short text as it is, else a digest. A set is sorted first, so that its order does not count."""
    found = {}
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=_plain)
        found[name] = text if len(text) <= _DIGEST_CHARS and text.isprintable() else digest(text.encode())
    return found


def given_epoch() -> int | None:
    """SOURCE_DATE_EPOCH, the time in Unix seconds that is written into what is built; None when it is not set.

    Raises BuildError. The variable: https://reproducible-builds.org/specs/source-date-epoch/
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and int(given) <= _LATEST):
        raise BuildError(f"SOURCE_DATE_EPOCH is {given!r}", hint="allowed: a whole number of seconds since 1970")
    return int(given)


def of_tools(*programs: str) -> dict[str, str]:
    """The versions of programs of this machine, by `tool NAME`; `none` for one that is not installed."""
    return {f"tool {program}": _tool_version(program) for program in programs}


@functools.cache
def _tool_version(program: str) -> str:
    try:
        # dnf lists its parts below its own version.
        line = process.capture([program, "--version"]).strip().partition("\n")[0]
    except BuildError:
        return "none"
    return line if len(line) <= _DIGEST_CHARS else digest(line.encode())


def of_files(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Digests of files, and of all files below folders, named by their path below `root`.

    Content and the executable bit count; times and owners do not. Compiled Python is skipped. A path that does not
    exist raises FileNotFoundError.
    """
    found: dict[str, str] = {}
    for path in paths:
        for file in files_of(path):
            if file.is_symlink():
                content = b"l" + os.fsencode(file.readlink())
            elif file.is_file():
                content = (b"x" if is_program(file) else b"-") + file.read_bytes()
            else:
                raise BuildError(f"{file} is neither a file, nor a folder, nor a link", hint="remove it")
            found[f"file {file.relative_to(root)}"] = digest(content)
    return found


def of_code(root: Path, module: Path) -> dict[str, str]:
    """Digests of a Python file below `root`, and of all files there that it imports directly or by way of others.

    A result depends on every function that may be called for it, so all of them count, without comments and docstrings.
    """
    return {f"code {path}": _code_digest(root / path) for path in sorted(_closure(root, module.relative_to(root)))}


@functools.cache
def _code_digest(file: Path) -> str:
    """A digest of a Python file without comments, docstrings and empty lines. The same on every Python."""
    lines: list[str] = [*file.read_text().splitlines(), ""]
    for token in tokenize.generate_tokens(iter([f"{line}\n" for line in lines]).__next__):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            said = node.body[0]
            for row in range(said.lineno, (said.end_lineno or said.lineno) + 1):
                lines[row - 1] = ""
    return digest("\n".join(line.rstrip() for line in lines if line.strip()).encode())


@functools.cache
def _closure(root: Path, module: Path) -> frozenset[Path]:
    found: set[Path] = set()
    left = [module]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += _imported(root, path)
    return frozenset(found)


@functools.cache
def _imported(root: Path, path: Path) -> tuple[Path, ...]:
    """The files below `root` that the import statements of a module name, in functions too, and `__init__.py` files."""
    names = {".".join(path.parent.parts)}
    for node in ast.walk(ast.parse((root / path).read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # In `from package import name` the name may be a module, or be defined in the package's `__init__.py`.
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    found: set[Path] = set()
    for name in names:
        parts = [part for part in name.split(".") if part]
        for length in range(1, len(parts) + 1):
            place = Path(*parts[:length])
            found.update(file for file in (place.with_suffix(".py"), place / "__init__.py") if (root / file).is_file())
    return tuple(sorted(found))


def fingerprint(inputs: Inputs) -> str:
    """One digest over all inputs, whatever their order."""
    return digest(json.dumps(dict(inputs), sort_keys=True).encode())


def changed(before: Inputs | None, now: Inputs) -> str | None:
    """Why a target must be built again, in a few words; None when nothing changed.

    Names at most three inputs, so that the line stays a line.
    """
    if before is None:
        return "never built"
    words = differences(before, now)
    if not words:
        return None
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def differences(before: Inputs, now: Inputs) -> list[str]:
    """A line for each input that is not as it was; with both values where they are short texts."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old is None:
            found.append(f"{name} is new")
        elif new is None:
            found.append(f"{name} is gone")
        elif old != new:
            shown = not _DIGEST.fullmatch(old) and not _DIGEST.fullmatch(new)
            found.append(f"{name} changed" + (f": {old} -> {new}" if shown else ""))
    return found


def is_program(file: Path) -> bool:
    """Whether a file's mode lets anybody execute it, also on a file system that is mounted `noexec`."""
    return bool(file.stat().st_mode & 0o111)


def files_of(path: Path) -> list[Path]:
    """The files and links that a path stands for: itself, or all below a folder but compiled Python; sorted.

    A path that does not exist raises FileNotFoundError.
    """
    return sorted(_files(path))


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir() and not path.is_symlink():
        for folder, names, files in os.walk(path):
            names[:] = sorted(set(names) - _SKIPPED)
            # A link to a folder counts as a link: what it leads to may differ between machines.
            links = [name for name in names if (Path(folder) / name).is_symlink()]
            yield from (Path(folder) / name for name in (*files, *links) if not name.endswith(".pyc"))
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

"""Writes files in one step, and reads JSON files."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from overlayd.lib.kept import Identity, identity
from overlayd.lib.ownership import open_to_others


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises OSError; ValueError where it is not JSON, or nested too deep."""
    try:
        # Some editors write a byte order mark.
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Put `text` under `path` in one step; after a crash or a full disk the old content is still there.

    Raises OSError, which names `path`.

    Once this has returned, a power cut does not take the new content back. An unchanged file is left alone. Nothing is
    written, made or read in a folder that others may write to: by links and pipes there they would have us write
    elsewhere, or wait.
    """
    _make_folder(path.parent)
    with contextlib.suppress(OSError):
        # As bytes: what is there need not be text. A pipe or a device is not read, as that may block.
        if path.is_file() and path.read_bytes() == text.encode():
            return
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
        _sync(path.parent)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            # The kernel tells of a full disk when it writes, and then names no file.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


class KeptFile:
    """A file that is kept with one text. For one thread."""

    def __init__(self, path: Path) -> None:
        """Writes nothing yet."""
        self._path = path
        self._as_it_should_be: tuple[str, Identity] | None = None

    def write(self, text: str) -> None:
        """Do as write_atomically; but nothing where the text is the same, and stat(2) shows no change of the file."""
        before = identity(self._path)
        if before is not None and self._as_it_should_be == (text, before):
            return
        write_atomically(self._path, text)
        # Only a file that was found so, as of one that was written now it is not known who changed it since.
        unchanged = before is not None and identity(self._path) == before
        self._as_it_should_be = (text, before) if before is not None and unchanged else None


def _sync(folder: Path) -> None:
    """Have the disk hold the names in a folder: fsync(2) of a file does not do so for the file's name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    # Each folder that is made gets its mode whatever the umask is, as the file does.
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            _require_ours(folder.parent)
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
    _require_ours(path)


def _require_ours(folder: Path) -> None:
    problem = open_to_others(folder)
    if problem is not None:
        raise OSError(problem)

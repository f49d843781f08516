"""The files of an image, read from its layers, of which each changes what the ones below it have.

A layer removes a file by a file `.wh.NAME`, and all files of a folder by `.wh..wh..opq` (image-spec, layer.md).
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from images.engine.layers import OPAQUE, WHITEOUT

_CHUNK = 1 << 20
_MOST_LINKS = 40  # the limit of the kernel too


@dataclass(frozen=True, kw_only=True)
class TreeEntry:
    """A file of an image. A regular one has its content in `layer`, `size` bytes at `offset`; a link has a `target`."""

    kind: bytes
    layer: Path
    offset: int = 0
    size: int = 0
    target: str = ""

    @property
    def is_file(self) -> bool:
        return self.kind in tarfile.REGULAR_TYPES


class Tree:
    """The files of an image by their path, which begins without a slash."""

    def __init__(self, layers: Iterable[Path]) -> None:
        """`layers` are uncompressed tars, the lowest first. Raises OSError and tarfile.TarError."""
        self._entries: dict[str, TreeEntry] = {}
        self._real: dict[str, str] = {"": ""}
        for layer in layers:
            self._put(layer)

    def files(self) -> Iterator[tuple[str, TreeEntry]]:
        """The regular files, sorted by path."""
        return ((path, entry) for path, entry in sorted(self._entries.items()) if entry.is_file)

    def below(self, folder: str) -> Iterator[tuple[str, TreeEntry]]:
        """The regular files directly in a folder."""
        return ((path, entry) for path, entry in self.files() if posixpath.dirname(path) == folder)

    def real(self, path: str) -> str:
        """The path with links to folders resolved: `/bin/sh` is `usr/bin/sh` where /bin is a link to usr/bin."""
        folder, name = posixpath.split(path.strip("/"))
        return posixpath.join(self._folder(folder, 0), name)

    def sha256(self, entry: TreeEntry) -> str:
        """The SHA-256 of a regular file, in hexadecimal."""
        hashed = hashlib.sha256()
        for chunk in _content(entry):
            hashed.update(chunk)
        return hashed.hexdigest()

    def extract(self, entry: TreeEntry, to: Path) -> None:
        """Write the content of a regular file."""
        with to.open("wb") as out:
            for chunk in _content(entry):
                out.write(chunk)

    def _put(self, layer: Path) -> None:
        here: dict[str, TreeEntry] = {}
        gone: set[str] = set()
        emptied: set[str] = set()
        with tarfile.open(layer, "r:") as tar:
            for member in tar:
                path = posixpath.normpath(member.name).strip("/")
                folder, name = posixpath.split(path)
                if name == OPAQUE:
                    emptied.add(folder)
                elif name.startswith(WHITEOUT):
                    gone.add(posixpath.join(folder, name.removeprefix(WHITEOUT)))
                elif member.islnk():
                    # A hard link to a file that came before it in this layer, or is in a lower one.
                    first = posixpath.normpath(member.linkname).strip("/")
                    here[path] = here.get(first) or self._entries[first]
                elif path not in ("", "."):
                    here[path] = TreeEntry(
                        kind=member.type,
                        layer=layer,
                        offset=member.offset_data,
                        size=member.size,
                        target=member.linkname,
                    )
        # Where a folder was replaced by something else, the files that were in it are gone too.
        gone |= {path for path, entry in here.items() if entry.kind != tarfile.DIRTYPE}
        self._entries = {
            path: entry
            for path, entry in self._entries.items()
            if path not in gone and not any(folder in gone or folder in emptied for folder in _folders(path))
        } | here
        self._real = {"": ""}

    def _folder(self, path: str, depth: int) -> str:
        if path in self._real:
            return self._real[path]
        above, name = posixpath.split(path)
        found = posixpath.join(self._folder(above, depth), name)
        entry = self._entries.get(found)
        if entry is not None and entry.kind == tarfile.SYMTYPE and depth < _MOST_LINKS:
            target = posixpath.normpath(posixpath.join("/", posixpath.dirname(found), entry.target)).strip("/")
            found = self._folder(target, depth + 1)
        self._real[path] = found
        return found


def _folders(path: str) -> Iterator[str]:
    while path:
        path = posixpath.dirname(path)
        if path:
            yield path


def _content(entry: TreeEntry) -> Iterator[bytes]:
    with entry.layer.open("rb") as file:
        file.seek(entry.offset)
        yield from _read(file, entry.size)


def _read(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size and (chunk := file.read(min(size, _CHUNK))):
        size -= len(chunk)
        yield chunk

"""The files of an OCI image layout (image-spec v1.0, image-layout.md): blobs by their SHA-256, and the index.

`engine.oci` keeps the images that are built in such a layout, `ship.compressed` keeps what leaves in a second one. A
blob, and the index, is written whole: a process that is killed leaves blobs that nothing names, never an index that
names a missing one. One process works on a layout at a time (it holds the build folder's lock); its threads may add
blobs at the same time.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from images.engine import files

REF_NAME = "org.opencontainers.image.ref.name"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYOUT_FILE = "oci-layout"
LAYOUT_VERSION = {"imageLayoutVersion": "1.0.0"}
INDEX_FILE = "index.json"


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A blob of a layout: `digest` is `sha256:…`, `size` is in bytes."""

    digest: str
    size: int

    @property
    def path(self) -> str:
        """Where it lies, below the folder of the layout."""
        return f"blobs/{self.digest.replace(':', '/', 1)}"

    def descriptor(self, media_type: str) -> dict[str, Any]:
        """What another document says of it (image-spec, descriptor.md)."""
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


class BlobStore:
    """The layout in one folder. The folder is made when something is first put into it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str) -> Path:
        """Where the blob of a digest lies, whether it is there or not."""
        return self._folder / "blobs" / digest.replace(":", "/", 1)

    def has(self, blob: Blob) -> bool:
        """Whether the blob is there with all its bytes."""
        try:
            return self.path(blob.digest).stat().st_size == blob.size
        except OSError:
            return False

    def add(self, content: bytes) -> Blob:
        """Write a blob. One that is there already is replaced by the same bytes."""
        blob = Blob(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size=len(content))
        files.write(self.path(blob.digest), content)
        return blob

    def add_json(self, document: Mapping[str, Any]) -> Blob:
        """Write a document as a blob. The same document gives the same bytes."""
        return self.add(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())

    def add_stream(self, chunks: Iterable[bytes]) -> Blob:
        """Write a blob piece by piece. When `chunks` raises, nothing is left of it."""
        hashed, size = hashlib.sha256(), 0
        half = self.path(f"sha256:.{secrets.token_hex(8)}.half")
        half.parent.mkdir(parents=True, exist_ok=True)
        try:
            with half.open("wb") as file:
                for chunk in chunks:
                    hashed.update(chunk)
                    file.write(chunk)
                    size += len(chunk)
            blob = Blob(digest=f"sha256:{hashed.hexdigest()}", size=size)
            half.rename(self.path(blob.digest))
        finally:
            half.unlink(missing_ok=True)
        return blob

    def add_file(self, file: Path) -> Blob:
        """Make a file a blob. The file is moved: it must be on the same file system."""
        with file.open("rb") as content:
            digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        blob = Blob(digest=digest, size=file.stat().st_size)
        self.path(digest).parent.mkdir(parents=True, exist_ok=True)
        file.rename(self.path(digest))
        return blob

    def keep_only(self, digests: Iterable[str]) -> None:
        """Remove all blobs but these, and the unfinished ones of a process that was killed."""
        keep = {self.path(digest) for digest in digests}
        for path in (self._folder / "blobs/sha256").glob("*"):
            if path not in keep:
                path.unlink()

    def index(self) -> list[dict[str, Any]]:
        """The entries of the index; none where there is no index, or one that cannot be read."""
        try:
            found = json.loads((self._folder / INDEX_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return []
        return cast(list[dict[str, Any]], found.get("manifests", []))

    def write_index(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace the index."""
        for name, content in ((LAYOUT_FILE, LAYOUT_VERSION), (INDEX_FILE, index_document(entries))):
            files.write(self._folder / name, json.dumps(content, indent=1, sort_keys=True) + "\n")


def index_document(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document index.json of a layout."""
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(entries)}


def index_entry(name: str, manifest: Blob) -> dict[str, Any]:
    """The entry of an index that gives an image, which is its manifest, a name."""
    return {**manifest.descriptor(MANIFEST_TYPE), "annotations": {REF_NAME: name}}

"""The images as they are kept: an OCI image layout below the build folder (image-spec v1.0, image-layout.md).

Blobs are named by their SHA-256 and shared between images. A blob, and then the index, is put in place by a rename, so
that a killed build leaves blobs that nothing names, never an image that lacks one. Docker is given archives made from
here. One process works on a layout at a time (the build folder's lock); its threads may share one `Layout`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, cast

REF_NAME = "org.opencontainers.image.ref.name"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURE = "amd64"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer's tar, uncompressed: `digest` (`sha256:…`, also its diff ID), size in bytes, and what made it."""

    digest: str
    size: int
    created_by: str


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image of the layout. `id` is the digest of its config, which is Docker's image ID for it."""

    name: str
    id: str
    manifest: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]

    @property
    def labels(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.config.get("config", {}).get("Labels") or {}
        return found


class Layout:
    """The layout in one folder, which is made when something is first put into it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def blob(self, digest: str) -> Path:
        """Where the blob of a digest lies."""
        return self._folder / "blobs" / digest.replace(":", "/", 1)

    def add_layer(self, tar: Path, created_by: str) -> Layer:
        """Take a layer's tar into the layout. The file is moved: it must be on the same file system."""
        with tar.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        size = tar.stat().st_size
        place = self.blob(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        tar.rename(place)
        return Layer(digest=digest, size=size, created_by=created_by)

    def add_image(self, name: str, layers: Sequence[Layer], config: Mapping[str, Any], *, epoch: int) -> Image:
        """An image out of layers, under a name. It takes the place of an older one of this name only by `publish`.

        `config` is the part that says how containers are started (image-spec, config.md), its labels included; the
        labels `org.opencontainers.image.…` are also the manifest's annotations. `epoch`, in Unix seconds, is the time
        that the image says it was made at.
        """
        created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        document = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": created,
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": created, "created_by": layer.created_by} for layer in layers],
        }
        described = self._add_json(document, CONFIG_TYPE)
        annotations = {k: v for k, v in config.get("Labels", {}).items() if k.startswith("org.opencontainers.image.")}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": described,
            "layers": [{"mediaType": LAYER_TYPE, "digest": x.digest, "size": x.size} for x in layers],
            "annotations": annotations,
        }
        return Image(
            name=name,
            id=described["digest"],
            manifest=self._add_json(manifest, MANIFEST_TYPE)["digest"],
            layers=tuple(layers),
            config=document,
        )

    def publish(self, image: Image) -> None:
        """Make an image the one of its name."""
        with self._lock:
            entries = [entry for entry in self._index() if entry["annotations"][REF_NAME] != image.name]
            entries.append(
                {
                    "mediaType": MANIFEST_TYPE,
                    "digest": image.manifest,
                    "size": self.blob(image.manifest).stat().st_size,
                    "annotations": {REF_NAME: image.name},
                    "platform": {"architecture": ARCHITECTURE, "os": "linux"},
                }
            )
            self._write_index(sorted(entries, key=lambda entry: str(entry["annotations"][REF_NAME])))

    def names(self) -> list[str]:
        """The names of all images, sorted."""
        return [str(entry["annotations"][REF_NAME]) for entry in self._index()]

    def image(self, name: str) -> Image | None:
        """The image of a name; None when there is none, or a blob of it is gone."""
        for entry in self._index():
            if entry["annotations"][REF_NAME] == name:
                return self._read(name, entry["digest"])
        return None

    def collect(self) -> None:
        """Remove blobs that no image needs, and files that were never finished."""
        needed = set()
        for entry in self._index():
            found = self._read(entry["annotations"][REF_NAME], entry["digest"])
            if found is not None:
                needed |= {found.id, found.manifest, *(layer.digest for layer in found.layers)}
        keep = {self.blob(digest) for digest in needed}
        for path in (self._folder / "blobs" / "sha256").glob("*"):
            if path not in keep:
                path.unlink()

    def docker_archive(self, image: Image, to: Path, *, tags: Sequence[str] = (), known: Sequence[Layer] = ()) -> None:
        """Write an image as the tar that `docker load` reads (moby's image/tarexport). The same image, the same bytes.

        `known` are layers that the Docker it is for has already: their content is left out.
        """
        files = {layer.digest: f"{layer.digest.removeprefix('sha256:')}.tar" for layer in image.layers}
        config = f"{image.id.removeprefix('sha256:')}.json"
        listed = [{"Config": config, "RepoTags": list(tags), "Layers": [files[x.digest] for x in image.layers]}]
        left_out = {layer.digest for layer in known}
        with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as tar:
            for digest, file in {image.id: config, **files}.items():
                if digest not in left_out:
                    _add(tar, file, self.blob(digest))
            _add(tar, "manifest.json", json.dumps(listed, sort_keys=True).encode())

    def _read(self, name: str, digest: str) -> Image | None:
        try:
            manifest = json.loads(self.blob(digest).read_text())
            config = json.loads(self.blob(manifest["config"]["digest"]).read_text())
            layers = tuple(
                Layer(digest=layer["digest"], size=layer["size"], created_by=str(made.get("created_by", "")))
                for layer, made in zip(manifest["layers"], config["history"], strict=True)
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not all(self.blob(layer.digest).exists() for layer in layers):
            return None
        return Image(name=name, id=manifest["config"]["digest"], manifest=digest, layers=layers, config=config)

    def _index(self) -> list[dict[str, Any]]:
        try:
            found = json.loads((self._folder / "index.json").read_text())
        except (FileNotFoundError, ValueError):
            return []
        return cast(list[dict[str, Any]], found.get("manifests", []))

    def _write_index(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for name, content in (
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ("index.json", {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}),
        ):
            half = self._folder / f"{name}.half"
            half.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
            half.rename(self._folder / name)

    def _add_json(self, document: Mapping[str, Any], kind: str) -> dict[str, Any]:
        content = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = self.blob(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        half = place.with_suffix(".half")
        half.write_bytes(content)
        half.rename(place)
        return {"mediaType": kind, "digest": digest, "size": len(content)}


def _add(tar: tarfile.TarFile, name: str, content: Path | bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o644
    if isinstance(content, bytes):
        entry.size = len(content)
        tar.addfile(entry, BytesIO(content))
        return
    entry.size = content.stat().st_size
    with content.open("rb") as file:
        tar.addfile(entry)
        shutil.copyfileobj(file, cast(Any, tar.fileobj), _CHUNK)
        padding = -entry.size % tarfile.BLOCKSIZE
        cast(Any, tar.fileobj).write(b"\0" * padding)
        tar.offset += entry.size + padding

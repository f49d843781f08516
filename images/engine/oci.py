"""The images that were built, in an OCI image layout below the build folder (images.engine.blobs).

Images share the layers that they have in common. Docker is given archives that are made from here. The threads of a
process may share one `Layout`.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from images.engine.annotations import PREFIX, timestamp
from images.engine.blobs import MANIFEST_TYPE, REF_NAME, Blob, BlobStore, index_entry

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURE = "amd64"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Layer(Blob):
    """A layer's tar, uncompressed, so that its digest is its diff ID too; `created_by` names what made it."""

    created_by: str


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image of the layout. `id` is the digest of its config, which is also the ID that Docker gives it."""

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
    """The layout in one folder. The folder is made when something is first put into it."""

    def __init__(self, folder: Path) -> None:
        self._blobs = BlobStore(folder)
        self._lock = threading.Lock()

    def blob(self, digest: str) -> Path:
        """The file of a blob, by its digest."""
        return self._blobs.path(digest)

    def add_layer(self, tar: Path, created_by: str) -> Layer:
        """Add a layer's tar. The file is moved: it must be on the same file system."""
        blob = self._blobs.add_file(tar)
        return Layer(digest=blob.digest, size=blob.size, created_by=created_by)

    def add_image(self, name: str, layers: Sequence[Layer], config: Mapping[str, Any], *, epoch: int) -> Image:
        """Add an image made of layers. It has its name only after `publish`, which takes the name from an older image.

        `config` says how containers are started (image-spec, config.md) and has the labels; those of the specification
        are the manifest's annotations too. `epoch`, in Unix seconds, is the time that the image states as its own.
        """
        created = timestamp(epoch)
        document = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": created,
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": created, "created_by": layer.created_by} for layer in layers],
        }
        stored = self._blobs.add_json(document)
        annotations = {k: v for k, v in config.get("Labels", {}).items() if k.startswith(PREFIX)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": stored.descriptor(CONFIG_TYPE),
            "layers": [layer.descriptor(LAYER_TYPE) for layer in layers],
            "annotations": annotations,
        }
        return Image(
            name=name,
            id=stored.digest,
            manifest=self._blobs.add_json(manifest).digest,
            layers=tuple(layers),
            config=document,
        )

    def publish(self, image: Image) -> None:
        """Give an image its name, which no other image has then."""
        with self._lock:
            entries = [entry for entry in self._blobs.index() if entry["annotations"][REF_NAME] != image.name]
            manifest = Blob(digest=image.manifest, size=self.blob(image.manifest).stat().st_size)
            platform = {"architecture": ARCHITECTURE, "os": "linux"}
            entries.append({**index_entry(image.name, manifest), "platform": platform})
            self._blobs.write_index(sorted(entries, key=lambda entry: str(entry["annotations"][REF_NAME])))

    def names(self) -> list[str]:
        """The names of all images, sorted."""
        return [str(entry["annotations"][REF_NAME]) for entry in self._blobs.index()]

    def image(self, name: str) -> Image | None:
        """The image of a name; None when there is none, or one of its blobs is missing."""
        for entry in self._blobs.index():
            if entry["annotations"][REF_NAME] == name:
                return self._read(name, entry["digest"])
        return None

    def collect(self) -> None:
        """Remove blobs that no image needs, and unfinished files."""
        needed = set()
        for entry in self._blobs.index():
            found = self._read(entry["annotations"][REF_NAME], entry["digest"])
            if found is not None:
                needed |= {found.id, found.manifest, *(layer.digest for layer in found.layers)}
        self._blobs.keep_only(needed)

    def docker_archive(self, image: Image, to: Path, *, tags: Sequence[str] = (), known: Sequence[Layer] = ()) -> None:
        """Write an image as the tar that `docker load` reads (moby's image/tarexport). The same image, the same bytes.

        `known` are layers that the Docker which reads it has already: their content is left out.
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

"""The images as they leave: a second OCI image layout, like the one they are built in, with its layers compressed.

Registries and archives are given blobs from here, so that an image has one digest wherever it goes. It lies below the
build folder and is kept: a layer that was compressed once is not compressed again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.engine.errors import BuildError
from images.engine.oci import INDEX_TYPE, MANIFEST_TYPE, REF_NAME, Image, Layout
from images.engine.process import Stop
from images.ship.parallel import side_by_side

FOLDER = Path("packed")
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
# gzip, as Docker 20.10 reads no zstd. Level 6 takes more than twice as long and saves a fifteenth.
LEVEL = 3
_RECORDS = "layers.json"
_CHUNK = 1 << 20
_GZIP_WRAPPER = 31  # zlib's wbits: a gzip header without name and time, so that the same tar gives the same bytes


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A blob of the layout: `digest` is `sha256:…`, `size` in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Packed:
    """An image of the packed layout in `folder`. `id` is the same as before; `manifest` is what registries know it by.

    `layers` are compressed; `diff_ids` are their digests before that.
    """

    name: str
    folder: Path
    id: str
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    diff_ids: tuple[str, ...]
    annotations: Mapping[str, str]

    @property
    def repository(self) -> str:
        """The name without its tag: `overlayd/base`."""
        return self.name.partition(":")[0]

    @property
    def tag(self) -> str:
        return self.name.partition(":")[2]

    @property
    def size(self) -> int:
        """Bytes to send or to write."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Its blobs, each once."""
        return tuple({blob.digest: blob for blob in (self.manifest, self.config, *self.layers)}.values())


def compression() -> str:
    """What the bytes of a compressed layer depend on beside the layer."""
    return f"gzip level {LEVEL}, zlib {zlib.ZLIB_RUNTIME_VERSION}"


def place(folder: Path, digest: str) -> Path:
    """Where a layout keeps a blob."""
    return folder / "blobs" / digest.replace(":", "/", 1)


def pack(layout: Layout, names: Iterable[str], folder: Path, stop: Stop) -> list[Packed]:
    """Compress images of a layout into the layout in `folder`, side by side; layers that are there already are taken.

    The index of `folder` then names these images. Blobs that no image of `layout` has any more are removed. The caller
    holds the build folder's lock. Raises BuildError for an image that is not built or a damaged blob, and Cancelled.
    """
    images = [_built(layout, name) for name in names]
    (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    for half in folder.glob("blobs/sha256/*.half"):
        half.unlink()
    known = _records(folder)
    wanted = sorted({layer.digest for image in images for layer in image.layers} - known.keys())
    # zlib lets other threads run while it works.
    made = side_by_side(lambda one: _compress(layout, one, folder, stop), wanted, stop)
    known |= dict(zip(wanted, made, strict=True))
    packed = [_manifest(layout, image, folder, known) for image in images]
    _write_index(folder, packed)
    _collect(layout, folder, known, packed)
    return packed


def _built(layout: Layout, name: str) -> Image:
    image = layout.image(name)
    if image is None:
        short = name.partition(":")[0].rpartition("/")[2]
        raise BuildError(f"the image {name} is not built", hint=f"invoke images.{short}, or invoke build-all")
    return image


def _compress(layout: Layout, digest: str, folder: Path, stop: Stop) -> Blob:
    half = place(folder, digest).with_suffix(".half")
    plain, hashed, size = hashlib.sha256(), hashlib.sha256(), 0
    gzip = zlib.compressobj(LEVEL, wbits=_GZIP_WRAPPER)
    try:
        with layout.blob(digest).open("rb") as source, half.open("wb") as out:

            def put(data: bytes) -> None:
                nonlocal size
                hashed.update(data)
                out.write(data)
                size += len(data)

            while chunk := source.read(_CHUNK):
                stop.check()
                plain.update(chunk)
                put(gzip.compress(chunk))
            put(gzip.flush())
        if f"sha256:{plain.hexdigest()}" != digest:
            raise BuildError(
                f"the layer {layout.blob(digest)} is damaged: its content has another digest",
                hint="remove it, and invoke build-all makes it again",
            )
        made = Blob(digest=f"sha256:{hashed.hexdigest()}", size=size)
        half.rename(place(folder, made.digest))
    finally:
        half.unlink(missing_ok=True)
    return made


def _manifest(layout: Layout, image: Image, folder: Path, known: Mapping[str, Blob]) -> Packed:
    manifest = json.loads(layout.blob(image.manifest).read_bytes())
    config = layout.blob(image.id).read_bytes()
    layers = [known[layer.digest] for layer in image.layers]
    manifest["layers"] = [{"mediaType": LAYER_TYPE, "digest": x.digest, "size": x.size} for x in layers]
    return Packed(
        name=image.name,
        folder=folder,
        id=image.id,
        manifest=_add(folder, json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()),
        config=_add(folder, config),
        layers=tuple(layers),
        diff_ids=tuple(layer.digest for layer in image.layers),
        annotations=manifest.get("annotations", {}),
    )


def index(images: Sequence[Packed]) -> dict[str, Any]:
    """The index.json of a layout that holds these images."""
    return {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [
            {
                "mediaType": MANIFEST_TYPE,
                "digest": image.manifest.digest,
                "size": image.manifest.size,
                "annotations": {REF_NAME: image.name},
            }
            for image in images
        ],
    }


def _add(folder: Path, content: bytes) -> Blob:
    made = Blob(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size=len(content))
    _write(place(folder, made.digest), content)
    return made


def _write_index(folder: Path, images: Sequence[Packed]) -> None:
    _write(folder / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}\n')
    _write(folder / "index.json", json.dumps(index(images), indent=1, sort_keys=True).encode() + b"\n")


def _write(final: Path, content: bytes) -> None:
    half = final.with_name(f"{final.name}.half")
    half.write_bytes(content)
    half.rename(final)


def _records(folder: Path) -> dict[str, Blob]:
    """The layers that are compressed already, by their digest before. None of them, if they were made otherwise."""
    try:
        found = json.loads((folder / _RECORDS).read_text())
        records = {digest: Blob(**blob) for digest, blob in found["layers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    if found.get("compression") != compression():
        return {}
    return {digest: blob for digest, blob in records.items() if _is_whole(folder, blob)}


def _is_whole(folder: Path, blob: Blob) -> bool:
    try:
        return place(folder, blob.digest).stat().st_size == blob.size
    except OSError:
        return False


def _collect(layout: Layout, folder: Path, known: Mapping[str, Blob], packed: Sequence[Packed]) -> None:
    """Keep the records of layers that some image still has, and the blobs that are theirs or the packed images'."""
    used = {layer.digest for name in layout.names() if (image := layout.image(name)) for layer in image.layers}
    kept = {digest: blob for digest, blob in known.items() if digest in used}
    records = {digest: {"digest": blob.digest, "size": blob.size} for digest, blob in kept.items()}
    document = {"compression": compression(), "layers": records}
    _write(folder / _RECORDS, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
    needed = {blob.digest for image in packed for blob in image.blobs} | {blob.digest for blob in kept.values()}
    places = {place(folder, digest) for digest in needed}
    for path in (folder / "blobs/sha256").iterdir():
        if path not in places:
            path.unlink()

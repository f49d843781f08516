"""The images as they leave: a second OCI image layout, like the one they are built in, with its layers compressed.

Registries and archives are given blobs from here, so that an image has one digest wherever it goes. The layout lies
below the build folder and is kept: a layer that was compressed once is not compressed again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.engine import blobs, files
from images.engine.blobs import Blob, BlobStore
from images.engine.errors import BuildError
from images.engine.oci import Image, Layout
from images.engine.process import Stop
from images.ship.parallel import side_by_side

# Below the build folder. It has the name that older releases of overlayd gave it: what lies there stays of use.
FOLDER = Path("packed")
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
# gzip, as Docker 20.10 reads no zstd. Level 6 takes more than twice as long and saves a fifteenth.
LEVEL = 3
_RECORDS = "layers.json"
_CHUNK = 1 << 20
_GZIP_WRAPPER = 31  # zlib's wbits: a gzip header without name and time, so that the same tar gives the same bytes


@dataclass(frozen=True, kw_only=True)
class CompressedImage:
    """An image of the compressed layout in `folder`.

    `id` is the ID that it has in the other layout and in Docker, `manifest` is what registries know it by. `layers` are
    compressed; `diff_ids` are the digests of the same layers uncompressed.
    """

    name: str
    folder: Path
    id: str
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    diff_ids: tuple[str, ...]
    annotations: Mapping[str, str]

    def path(self, blob: Blob) -> Path:
        """The file of one of its blobs."""
        return BlobStore(self.folder).path(blob.digest)

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
    """What the bytes of a compressed layer depend on, beside the layer: a text that names it."""
    return f"gzip level {LEVEL}, zlib {zlib.ZLIB_RUNTIME_VERSION}"


def compress(layout: Layout, names: Iterable[str], folder: Path, stop: Stop) -> list[CompressedImage]:
    """Compress images of a layout into the layout in `folder`, several layers at a time.

    A layer that is there already is not compressed again. Afterwards the index of `folder` names these images, and
    blobs that no image of `layout` has any more are removed. The caller holds the build folder's lock. Raises
    BuildError for an image that is not built and for a damaged layer, and Cancelled.
    """
    images = [_built(layout, name) for name in names]
    store = BlobStore(folder)
    known = _records(store, folder)
    wanted = sorted({layer.digest for image in images for layer in image.layers} - known.keys())
    # zlib lets other threads run while it works.
    made = side_by_side(lambda one: store.add_stream(_gzipped(layout.blob(one), one, stop)), wanted, stop)
    known |= dict(zip(wanted, made, strict=True))
    compressed = [_manifest(layout, image, store, folder, known) for image in images]
    store.write_index(index_entries(compressed))
    _remove_unused(layout, store, folder, known, compressed)
    return compressed


def _built(layout: Layout, name: str) -> Image:
    image = layout.image(name)
    if image is None:
        short = name.partition(":")[0].rpartition("/")[2]
        raise BuildError(f"the image {name} is not built", hint=f"invoke images.{short}, or invoke build-all")
    return image


def _gzipped(layer: Path, digest: str, stop: Stop) -> Iterator[bytes]:
    """The compressed bytes of a layer. Raises BuildError at the end where the layer is not what its digest says."""
    plain = hashlib.sha256()
    gzip = zlib.compressobj(LEVEL, wbits=_GZIP_WRAPPER)
    with layer.open("rb") as source:
        while chunk := source.read(_CHUNK):
            stop.check()
            plain.update(chunk)
            yield gzip.compress(chunk)
    yield gzip.flush()
    if f"sha256:{plain.hexdigest()}" != digest:
        raise BuildError(
            f"the layer {layer} is damaged: its content has another digest",
            hint="remove it, and invoke build-all makes it again",
        )


def _manifest(
    layout: Layout, image: Image, store: BlobStore, folder: Path, known: Mapping[str, Blob]
) -> CompressedImage:
    """Write the manifest that names the compressed layers of an image, and its config."""
    manifest = json.loads(layout.blob(image.manifest).read_bytes())
    layers = [known[layer.digest] for layer in image.layers]
    manifest["layers"] = [layer.descriptor(LAYER_TYPE) for layer in layers]
    return CompressedImage(
        name=image.name,
        folder=folder,
        id=image.id,
        manifest=store.add_json(manifest),
        config=store.add(layout.blob(image.id).read_bytes()),
        layers=tuple(layers),
        diff_ids=tuple(layer.digest for layer in image.layers),
        annotations=manifest.get("annotations", {}),
    )


def index_entries(images: Sequence[CompressedImage]) -> list[dict[str, Any]]:
    """The entries of the index of a layout that holds these images."""
    return [blobs.index_entry(image.name, image.manifest) for image in images]


def _records(store: BlobStore, folder: Path) -> dict[str, Blob]:
    """The layers that are compressed already, by their digest before that.

    There are none when they were compressed in another way, or by another zlib.
    """
    try:
        found = json.loads((folder / _RECORDS).read_text())
        records = {digest: Blob(**blob) for digest, blob in found["layers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    if found.get("compression") != compression():
        return {}
    return {digest: blob for digest, blob in records.items() if store.has(blob)}


def _remove_unused(
    layout: Layout, store: BlobStore, folder: Path, known: Mapping[str, Blob], compressed: Sequence[CompressedImage]
) -> None:
    """Keep the records of layers that an image of `layout` still has, their blobs, and the blobs of `compressed`."""
    used = {layer.digest for name in layout.names() if (image := layout.image(name)) for layer in image.layers}
    kept = {digest: blob for digest, blob in known.items() if digest in used}
    records = {digest: {"digest": blob.digest, "size": blob.size} for digest, blob in kept.items()}
    document = {"compression": compression(), "layers": records}
    files.write(folder / _RECORDS, json.dumps(document, indent=1, sort_keys=True) + "\n")
    needed = {blob.digest for image in compressed for blob in image.blobs} | {blob.digest for blob in kept.values()}
    store.keep_only(needed)

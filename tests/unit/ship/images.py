"""Small images of a test's own, in a layout of its own: what is shipped is the same whatever an image holds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from images.engine.oci import Image, Layer, Layout

EPOCH = 1_700_000_000
CREATED = "2023-11-14T22:13:20Z"


def layer(layout: Layout, scratch: Path, files: Mapping[str, bytes | str | None]) -> Layer:
    """A layer of files by path. A text is a link's target; None is a folder."""
    tar = scratch / "layer.tar"
    with tarfile.open(tar, "w") as out:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size = len(content)
            out.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return layout.add_layer(tar, created_by="a test")


def image(layout: Layout, name: str, layers: Sequence[Layer]) -> Image:
    """An image of these layers, under its name."""
    labels = {"org.opencontainers.image.title": name, "org.opencontainers.image.created": CREATED}
    made = layout.add_image(name, layers, {"Cmd": ["true"], "Labels": labels}, epoch=EPOCH)
    layout.publish(made)
    return made

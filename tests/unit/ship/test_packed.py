"""Images as they leave: digests that stay the same, layers compressed once, archives that are whole or not there."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from images import signing
from images.engine.blobs import index_document
from images.engine.errors import BuildError, Cancelled
from images.engine.oci import Layout
from images.engine.process import Stop
from images.ship import archive, compressed
from images.ship.compressed import CompressedImage
from tests.testbed.needs import needs
from tests.unit.ship.images import image, layer

NAMES = ("overlayd/a:test", "overlayd/b:test")


def build(folder: Path) -> Layout:
    """Two images, of which b is a and one layer more."""
    layout = Layout(folder / "oci")
    lower = layer(layout, folder, {"bin": None, "bin/sh": b"#!shell\n" * 5000})
    upper = layer(layout, folder, {"etc/name": b"b\n"})
    image(layout, NAMES[0], [lower])
    image(layout, NAMES[1], [lower, upper])
    return layout


def compress(folder: Path, layout: Layout, stop: Stop | None = None) -> list[CompressedImage]:
    return compressed.compress(layout, NAMES, folder / "packed", stop or Stop())


def test_the_same_images_compressed_in_two_places_have_the_same_digests(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    one = compress(tmp_path / "x", build(tmp_path / "x"))
    two = compress(tmp_path / "y", build(tmp_path / "y"))
    assert [image.manifest for image in one] == [image.manifest for image in two]
    assert [image.id for image in one] == [found.id for name in NAMES if (found := build(tmp_path).image(name))]


def test_compressed_layers_are_the_images_layers_compressed_and_kept_once(tmp_path: Path) -> None:
    layout = build(tmp_path)
    a, b = compress(tmp_path, layout)
    assert b.layers[0] == a.layers[0]
    for blob, diff_id in zip(b.layers, b.diff_ids, strict=True):
        content = b.path(blob).read_bytes()
        assert len(content) == blob.size
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == blob.digest
        assert gzip.decompress(content) == layout.blob(diff_id).read_bytes()
    manifest = json.loads(b.path(b.manifest).read_bytes())
    assert manifest["annotations"]["org.opencontainers.image.title"] == NAMES[1]
    assert {entry["mediaType"] for entry in manifest["layers"]} == {compressed.LAYER_TYPE}


def test_a_layer_is_compressed_once_and_again_only_when_it_is_gone(tmp_path: Path) -> None:
    layout = build(tmp_path)
    before = compress(tmp_path, layout)
    kept, gone = (before[1].path(blob) for blob in before[1].layers)
    number = kept.stat().st_ino
    gone.unlink()
    assert compress(tmp_path, layout) == before
    assert kept.stat().st_ino == number
    assert gone.exists()


def test_blobs_that_no_image_has_any_more_are_removed(tmp_path: Path) -> None:
    layout = build(tmp_path)
    compress(tmp_path, layout)
    image(layout, NAMES[1], [layer(layout, tmp_path, {"etc/name": b"another\n"})])
    after = compress(tmp_path, layout)
    blobs = {path.name for path in (tmp_path / "packed/blobs/sha256").iterdir()}
    assert blobs == {blob.digest.removeprefix("sha256:") for image in after for blob in image.blobs}


def test_an_image_that_is_not_built_is_named_with_what_builds_it(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"overlayd/etcd:test is not built\n.*invoke images\.etcd"):
        compressed.compress(build(tmp_path), ["overlayd/etcd:test"], tmp_path / "packed", Stop())


def test_a_damaged_layer_is_never_packed(tmp_path: Path) -> None:
    layout = build(tmp_path)
    found = layout.image(NAMES[0])
    assert found is not None
    place = layout.blob(found.layers[0].digest)
    place.write_bytes(place.read_bytes().replace(b"#!shell", b"#!spell", 1))
    with pytest.raises(BuildError, match="damaged"):
        compressed.compress(layout, NAMES[:1], tmp_path / "packed", Stop())
    assert not list((tmp_path / "packed/blobs/sha256").iterdir())


def test_packing_that_is_stopped_leaves_no_half_of_a_blob(tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Cancelled):
        compress(tmp_path, build(tmp_path), stop)
    assert not list((tmp_path / "packed/blobs/sha256").iterdir())


def test_an_archive_is_the_same_bytes_twice_and_a_layout_with_a_listing_for_docker(tmp_path: Path) -> None:
    images = compress(tmp_path, build(tmp_path))
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    digest = archive.save(images, one, Stop())
    assert archive.save(images, two, Stop()) == digest
    assert archive.sum_file(one).read_text() == f"{digest}  one.tar\n"
    assert hashlib.sha256(two.read_bytes()).hexdigest() == digest
    assert archive.listed(one) == {image.name: image.id for image in images}
    with tarfile.open(one) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    assert {"oci-layout", "index.json", "manifest.json"} < set(names)


def test_a_blob_damaged_in_the_meantime_is_not_saved(tmp_path: Path) -> None:
    images = compress(tmp_path, build(tmp_path))
    place = images[0].path(images[0].layers[0])
    place.write_bytes(os.urandom(images[0].layers[0].size))
    with pytest.raises(BuildError, match="damaged"):
        archive.save(images, tmp_path / "images.tar", Stop())
    assert not list(tmp_path.glob("*images.tar*"))


def test_a_stopped_save_leaves_the_archive_before_it_as_it_was(tmp_path: Path) -> None:
    images = compress(tmp_path, build(tmp_path))
    to = tmp_path / "images.tar"
    digest = archive.save(images[:1], to, Stop())
    stop = Stop()
    stop.set()
    with pytest.raises(Cancelled):
        archive.save(images, to, stop)
    assert hashlib.sha256(to.read_bytes()).hexdigest() == digest
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["images.tar", "images.tar.sha256"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1024]), "was expected\n.*copy it again"),
        (lambda file: archive.sum_file(file).unlink(), "no images.tar.sha256 beside it"),
        (lambda file: archive.sum_file(file).write_text("none\n"), "holds no SHA-256"),
        (lambda file: file.unlink(), "images.tar cannot be read"),
    ],
    ids=["cut short", "no sum", "no sum in it", "no file"],
)
def test_an_archive_that_is_not_what_was_saved_is_refused(tmp_path: Path, spoil: object, said: str) -> None:
    to = tmp_path / "images.tar"
    archive.save(compress(tmp_path, build(tmp_path)), to, Stop())
    assert callable(spoil)
    spoil(to)
    with pytest.raises(BuildError, match=said):
        archive.load(to, report=print, warn=print)


def test_a_file_that_is_no_archive_is_refused_even_with_its_right_sum(tmp_path: Path) -> None:
    other = tmp_path / "other.tar"
    with tarfile.open(other, "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    with pytest.raises(BuildError, match="is no archive of images"):
        archive.load(other, sha256=hashlib.sha256(other.read_bytes()).hexdigest(), report=print, warn=print)


def saved(folder: Path, **replaced: bytes) -> tuple[Path, str]:
    """An archive with other content for some of its documents, and its right sum."""
    good, to = folder / "good.tar", folder / "images.tar"
    archive.save(compress(folder, build(folder)), good, Stop())
    with tarfile.open(good) as source, tarfile.open(to, "w") as tar:
        for member in source:
            content = source.extractfile(member)
            data = replaced.get(member.name.removesuffix(".json"), content.read() if content else b"")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return to, hashlib.sha256(to.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", ["debian:12", "evil/overlayd/base:x", "overlayd/base", "registry:5000/overlayd/base:x", "overlayd/../a:b"]
)
@pytest.mark.parametrize("where", ["manifest", "index"])
def test_an_archive_that_would_name_an_image_otherwise_than_ours_is_refused(
    tmp_path: Path, where: str, name: str
) -> None:
    images = compress(tmp_path, build(tmp_path))
    manifest = [{"Config": "blobs/sha256/x", "RepoTags": ["overlayd/a:test", name], "Layers": []}]
    index = index_document(compressed.index_entries(images))
    index["manifests"][0]["annotations"]["io.containerd.image.name"] = name
    replaced = {"manifest": manifest, "index": index}[where]
    to, digest = saved(tmp_path, **{where: json.dumps(replaced).encode()})
    with pytest.raises(BuildError, match="which is no name of ours") as refused:
        archive.load(to, sha256=digest, report=print, warn=print)
    assert repr(name) in str(refused.value)


def test_of_two_listings_in_one_archive_neither_counts(tmp_path: Path) -> None:
    to, _ = saved(tmp_path)
    with tarfile.open(to, "a") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"[]"))
    with pytest.raises(BuildError, match=r"manifest.json is there 2 times"):
        archive.listed(to)


@needs("gpg")
def test_with_a_key_an_archive_needs_a_good_signature(tmp_path: Path) -> None:
    to, digest = saved(tmp_path, manifest=b'[{"Config": "x", "RepoTags": ["debian:12"]}]')
    key = signing.generate(tmp_path / "keys/home", "overlayd test <test@example.com>")
    public = tmp_path / "key.asc"
    public.write_bytes(signing.export_public(key))
    with pytest.raises(BuildError, match=r"has no images.tar.asc beside it, which the key was given to check"):
        archive.load(to, sha256=digest, key=public, report=print, warn=print)
    signing.sign_detached(key, tmp_path / "good.tar")
    (tmp_path / "good.tar.asc").rename(archive.signature_file(to))
    # The right sum, and a signature of something else.
    with pytest.raises(BuildError, match="do not match, by this key"):
        archive.load(to, sha256=digest, key=public, report=print, warn=print)
    with pytest.raises(BuildError, match="cannot be read"):
        archive.load(to, sha256=digest, key=tmp_path / "none", report=print, warn=print)
    # A good one does not make every name good.
    signing.sign_detached(key, to)
    with pytest.raises(BuildError, match="no name of ours"):
        archive.load(to, sha256=digest, key=public, report=print, warn=print)

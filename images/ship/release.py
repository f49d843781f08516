"""Makes a release: images, a yum repository, SBOMs, sums and signatures, in one folder that is whole or not there."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cyclonedx.model.component import Component

from images import signing
from images.bases.base import Base
from images.engine.annotations import CREATED
from images.engine.annotations import version as version_of
from images.engine.errors import BuildError
from images.engine.place import Place
from images.engine.process import Stop, capture
from images.etcd import release as etcd_release
from images.ship import archive, compressed, image_inventory, manifest, sbom, yum
from images.ship.compressed import CompressedImage
from images.ship.image_inventory import ImageInventory, RpmPackage
from images.ship.parallel import side_by_side
from images.signing import SigningKey

# The files that come from etcd's own release, on a base without a package of etcd.
_ETCD = (
    *(f"/usr/bin/{program}" for program in etcd_release.PROGRAMS),
    *(f"{etcd_release.LICENCE_FOLDER}/{name}" for name in etcd_release.LICENCES),
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """What to put into a release, where to make it, and by which key to sign it.

    `images` are tags. `baseurl` is the URL at which the yum repository will be served.
    """

    place: Place
    base: Base
    images: Sequence[str]
    rpms: Sequence[Path]
    inventory: Path
    to: Path
    key: SigningKey | None
    baseurl: str

    @property
    def version(self) -> str:
        return version_of(self.place.root)


def make(release: Release, stop: Stop, report: Callable[[str], None]) -> None:
    """Make the release in its folder, in place of one that is there. The caller holds the build folder's lock.

    It is made beside that one, under another name: where it fails or is stopped, the one before stays. `report` is
    called with a line for each part. Raises BuildError.
    """
    with beside(release.to) as folder:
        try:
            _fill(release, folder, stop, report)
        except OSError as error:
            raise BuildError(
                f"the release was not written: {error.filename or folder}: {error.strerror}",
                hint=f"what was written is removed; {release.to} is as it was",
            ) from error


def check_place(to: Path) -> None:
    """Raises BuildError when a release would replace something else, or cannot be written there."""
    if to.is_symlink() or to.exists():
        if not to.is_dir() or (any(to.iterdir()) and not (to / manifest.NAME).is_file()):
            raise BuildError(f"{to} exists and is no release", hint="name another folder: --to")
    elif not to.parent.is_dir():
        raise BuildError(f"there is no folder {to.parent}", hint="make it, or name another: --to")
    try:
        # A folder is made to see whether it can be: root may write whatever modes say, but not where a mount is
        # read-only.
        tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.").cleanup()
    except OSError as error:
        raise BuildError(
            f"in {to.parent} no folder can be made: {error.strerror}", hint="name another: --to"
        ) from error


def _fill(release: Release, folder: Path, stop: Stop, report: Callable[[str], None]) -> None:
    place, base, key = release.place, release.base, release.key
    images = compressed.compress(place.layout, release.images, place.build / compressed.FOLDER, stop)
    report(f"{len(images)} images compressed")
    for name in ("images", "sbom"):
        (folder / name).mkdir()
    made = side_by_side(lambda image: _image(release, image, folder, stop), images, stop)
    described = [said for said, _ in made]
    installed = set().union(*(packages for _, packages in made))
    package = next(filter(lambda one: one.name == "overlayd", map(image_inventory.of_rpm, release.rpms)))
    epoch = int(capture(["rpm", "-qp", "--nosignature", "--queryformat", "%{BUILDTIME}", release.rpms[0]]))
    rpm_bill = f"sbom/overlayd-{package.evr}.{package.arch}.cdx.json"
    inventory = json.loads(release.inventory.read_text())
    (folder / rpm_bill).write_text(sbom.of_rpm(package, inventory, base=base, epoch=epoch))
    report(f"archives and bills of materials of {len(images)} images")
    with signing.agent(key) if key else contextlib.nullcontext():
        yum.make(release.rpms, folder / "yum", epoch=epoch, key=key, baseurl=release.baseurl)
        report("yum repository")
        if key:
            shutil.copyfile(folder / "yum" / yum.KEY_FILE, folder / yum.KEY_FILE)
        text = manifest.readme(version=release.version, base=base, key=key, baseurl=release.baseurl, images=described)
        (folder / manifest.README).write_text(text)
        files = manifest.files(folder)
        (folder / manifest.NAME).write_text(
            manifest.document(
                version=release.version,
                epoch=max([epoch, *(_created(image) for image in images)]),
                origin=manifest.source(place.root),
                base=base,
                key=key,
                images=described,
                rpms=[{"name": rpm.stem, "file": f"yum/{rpm.name}"} for rpm in release.rpms],
                packages={one.name: one.evr for one in sorted({*installed, package})},
                files=files,
            )
        )
        stop.check()
        (folder / manifest.SUMS).write_text(
            manifest.sums(files | {manifest.NAME: manifest.file(folder / manifest.NAME)})
        )
        if key:
            _sign(key, folder, [folder / one["archive"] for one in described], stop)
            report(f"signed by {key.fingerprint} ({key.uid})")


def _image(
    release: Release, image: CompressedImage, folder: Path, stop: Stop
) -> tuple[dict[str, Any], set[RpmPackage]]:
    """Write the archive and the SBOM of an image; its entry in the manifest, and the packages in it."""
    stop.check()
    layout, base = release.place.layout, release.base
    stem = f"{image.repository.replace('/', '-')}-{release.version}-{image.tag}"
    to = folder / "images" / f"{stem}.tar"
    archive.save([image], to, stop)
    built = layout.image(image.name)
    assert built is not None, "it was compressed a moment ago"
    found = image_inventory.read(layout, built, release.place.build / base.repository)
    stop.check()
    others, found = _not_packaged(base, found)
    text = sbom.of_image(
        image.repository,
        version=release.version,
        digest=image.id,
        base=base,
        epoch=_created(image),
        contents=found,
        others=others,
    )
    (folder / "sbom" / f"{stem}.cdx.json").write_text(text)
    said = manifest.image(image, f"images/{to.name}", f"sbom/{stem}.cdx.json")
    return said, {*found.packages, *found.partial}


def _not_packaged(base: Base, found: ImageInventory) -> tuple[list[Component], ImageInventory]:
    """etcd as a component where it is its project's own release; and the inventory without its files."""
    files = [file for file in found.files if file.path in _ETCD]
    if base.packaged_etcd or not files:
        return [], found
    left = tuple(file for file in found.files if file not in files)
    component = sbom.release(
        "etcd",
        version=etcd_release.VERSION,
        url=etcd_release.URL,
        sha256=etcd_release.SHA256,
        licence="Apache-2.0",
        files=files,
    )
    return [component], ImageInventory(packages=found.packages, partial=found.partial, files=left)


def _sign(key: SigningKey, folder: Path, archives: Sequence[Path], stop: Stop) -> None:
    """Sign, and check every signature as a user of the release will: with the public key alone."""
    public = (folder / yum.KEY_FILE).read_bytes()

    def sign(file: Path) -> None:
        stop.check()
        [signature] = signing.sign_detached(key, file)
        signing.verify(file, signature, public)

    side_by_side(sign, [*archives, folder / manifest.SUMS], stop)
    repomd = folder / "yum/repodata/repomd.xml"
    signing.verify(repomd, repomd.with_name(f"{repomd.name}.asc"), public)


def _created(image: CompressedImage) -> int:
    return int(datetime.fromisoformat(image.annotations[CREATED]).timestamp())


@contextlib.contextmanager
def beside(to: Path) -> Iterator[Path]:
    """A new folder beside `to`, which replaces it at the end of the block; when the block raises, it is removed."""
    half, old = (to.with_name(f"{to.name}.{word}") for word in ("half", "old"))
    if old.exists() and not to.exists():
        old.rename(to)  # a process was killed between the two renames below
    for left in (half, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        half.mkdir()
        yield half
        if to.exists():
            to.rename(old)
        half.rename(to)
    except BaseException:
        if old.exists() and not to.exists():
            old.rename(to)
        raise
    finally:
        shutil.rmtree(half, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

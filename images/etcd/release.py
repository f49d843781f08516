"""etcd's own release, for bases whose repositories have no etcd: one tarball, checked by its SHA-256.

The tarball is kept in the build folder's cache, so that a later build needs no network; one that was copied there is
used too. Only the programs and the licences are taken from it, by their names, so that no other name in it has an
effect.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path, PurePosixPath

from images.engine import target as targets
from images.engine.errors import BuildError
from images.engine.files import written_whole
from images.engine.graph import CACHE, Target
from images.engine.step import Step

NAME = "images.etcd.release"
VERSION = "3.5.21"
SHA256 = "adddda4b06718e68671ffabff2f8cee48488ba61ad82900e639d108f2148501c"
TOP = f"etcd-v{VERSION}-linux-amd64"
URL = f"https://github.com/etcd-io/etcd/releases/download/v{VERSION}/{TOP}.tar.gz"
# Below the build folder: the tarball, and what was taken out of it.
FOLDER = CACHE / "etcd"
TARBALL = f"{TOP}.tar.gz"
PROGRAMS_FOLDER = FOLDER / "programs"
MOUNT = "/run/overlayd/etcd"
PROGRAMS = ("etcd", "etcdctl")
LICENCE_FOLDER = "/usr/share/licenses/etcd"
# Where a release holds neither, LICENSE is this project's file: etcd has the Apache licence too.
LICENCES = ("LICENSE", "NOTICE")
OWN_LICENCE = Path("LICENSE")
INSTALL_SCRIPT = f"""\
install -m 755 {" ".join(f"{MOUNT}/{program}" for program in PROGRAMS)} /usr/bin/
install -D -m 644 -t {LICENCE_FOLDER} {MOUNT}/licences/*
"""
_TIMEOUT_S = 30.0
_HINT = (
    f"fetch it elsewhere and put it there as build/{FOLDER / TARBALL}, name a mirror, build on the base debian12-rpm, "
    "which has a package of etcd, or use an etcd that runs elsewhere"
)


def target(url: str = URL, sha256: str = SHA256) -> Target:
    """The target that has the release's programs. `url`, which is no input, may be a mirror with the same tarball."""

    def build(step: Step) -> None:
        out = step.output(FOLDER)
        out.mkdir(parents=True)
        obtain(out / TARBALL, step.build / FOLDER / TARBALL, url, sha256, step)
        unpack(out / TARBALL, out / PROGRAMS_FOLDER.name, step.checkout / OWN_LICENCE)

    return targets.target(
        name=NAME,
        build=build,
        code=[Path(__file__)],
        values={"sha256": sha256},
        files=(OWN_LICENCE,),
        outputs=(FOLDER,),
        network=True,
    )


def obtain(to: Path, kept: Path, url: str = URL, sha256: str = SHA256, step: Step | None = None) -> None:
    """Put the tarball at `to`: a copy of `kept` if that is whole, else what `url` has. Raises BuildError."""
    if kept.is_file() and _digest(kept) == sha256:
        shutil.copyfile(kept, to)
    else:
        fetch(to, url, sha256, step)


def fetch(to: Path, url: str = URL, sha256: str = SHA256, step: Step | None = None) -> None:
    """Download a file whose SHA-256 is known. Raises BuildError when it cannot be fetched or is another file.

    `url` is http, https or file. Nothing is at `to` before the file is whole and checked.
    """
    try:
        with written_whole(to) as half:
            size = _download(half, url, step)
            found = _digest(half)
            if found != sha256:
                raise BuildError(
                    f"{url} is another file: its SHA-256 is {found}, and {sha256} was expected{_guess(half, size)}",
                    hint=_HINT,
                )
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise BuildError(
            f"etcd's release cannot be fetched from {url}: {error or type(error).__name__}",
            hint=_HINT,
        ) from error


def _download(to: Path, url: str, step: Step | None) -> int | None:
    """Download a file; the length that the server announced, None where it announced none."""
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, to.open("wb") as file:
        while chunk := answer.read(1 << 20):
            if step is not None:
                step.stop.check()
            file.write(chunk)
        length = answer.headers.get("Content-Length")
    return int(length) if length else None


def _guess(file: Path, announced: int | None) -> str:
    size = file.stat().st_size
    if announced is not None and size < announced:
        return f"; {size} of {announced} bytes came"
    with file.open("rb") as opened:
        head = opened.read(512).lstrip().lower()
    return "; it is a web page, perhaps a proxy's" if head.startswith((b"<!doctype", b"<html")) else ""


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def unpack(tarball: Path, folder: Path, licence: Path) -> None:
    """Put the programs of the release, and its licences, into a folder, which must not exist.

    The file `licence` is used where the release holds none. Raises BuildError when a program is missing.
    """
    (folder / "licences").mkdir(parents=True)
    wanted = {PurePosixPath(TOP, program): folder / program for program in PROGRAMS}
    texts = {PurePosixPath(TOP, name): folder / "licences" / name for name in LICENCES}
    shutil.copyfile(licence, folder / "licences" / OWN_LICENCE.name)
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                place = (wanted | texts).get(PurePosixPath(member.name))
                content = archive.extractfile(member) if place and member.isreg() else None
                if place is not None and content is not None:
                    with content, place.open("wb") as file:
                        shutil.copyfileobj(content, file)
                    place.chmod(0o755 if place in wanted.values() else 0o644)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise BuildError(f"{tarball} cannot be unpacked: {error}", hint=f"remove {tarball} and build again") from error
    missing = [str(name) for name, place in wanted.items() if not place.exists()]
    if missing:
        raise BuildError(f"{tarball} holds no {' and no '.join(missing)}", hint="is it etcd's release for linux-amd64?")

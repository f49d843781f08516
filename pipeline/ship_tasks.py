"""The tasks that ship what was built: `images.push`, `images.save`, `images.load`, and `release`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.tasks import task

from images import recipes
from images.engine.errors import BuildError
from images.engine.progress import report
from pipeline.build import build

if TYPE_CHECKING:
    from images.signing import SigningKey

_IMAGE = "base, docker, host, …: the image (invoke images.list); may be given several times; without it all"
_BASE = "images of this base; without it the base built last"


@task(
    iterable=["image"],
    help={
        "registry": "HOST:PORT, or HOST:PORT/prefix",
        "image": _IMAGE,
        "base": _BASE,
        "tls-verify": "--no-tls-verify: take any certificate, and plain HTTP",
    },
)
def push(
    c: Context,  # noqa: ARG001
    registry: str,
    image: list[str] | None = None,
    base: str | None = None,
    tls_verify: bool = True,
) -> None:
    """Push built images to a registry, by digest and by tag; print the names by digest. Logins are skopeo's."""
    from images.engine.place import PLACE  # noqa: PLC0415
    from images.engine.process import Stop  # noqa: PLC0415  # `invoke --list` needs none of it
    from images.engine.runner import build_folder_locked  # noqa: PLC0415
    from images.ship import compressed  # noqa: PLC0415
    from images.ship import registry as registries  # noqa: PLC0415

    to = registries.parse(registry, tls_verify=tls_verify)
    names = tags(image or [], base)
    stop = Stop()
    with build_folder_locked(PLACE):
        registries.push(
            to, compressed.compress(PLACE.layout, names, PLACE.build / compressed.FOLDER, stop), stop, report
        )


@task(
    iterable=["image"], help={"to": "the file to write; FILE.sha256 is put beside it", "image": _IMAGE, "base": _BASE}
)
def save(c: Context, to: str, image: list[str] | None = None, base: str | None = None) -> None:  # noqa: ARG001
    """Write built images to one file, which `images.load`, docker load and skopeo read; and its SHA-256 beside it."""
    from images.engine.place import PLACE  # noqa: PLC0415
    from images.engine.process import Stop  # noqa: PLC0415
    from images.engine.runner import build_folder_locked  # noqa: PLC0415
    from images.ship import archive, compressed  # noqa: PLC0415

    names = tags(image or [], base)
    stop = Stop()
    with build_folder_locked(PLACE):
        images = compressed.compress(PLACE.layout, names, PLACE.build / compressed.FOLDER, stop)
        report(f"{archive.save(images, Path(to), stop)}  {to}")


@task(
    help={
        "file": "what images.save wrote",
        "sha256": "the file's SHA-256, instead of the one in FILE.sha256",
        "key": "a file with the public key that FILE.asc is to be a signature by; a sum does not say who made it",
    }
)
def load(c: Context, file: str, sha256: str | None = None, key: str | None = None) -> None:  # noqa: ARG001
    """Check a file of images by its SHA-256 and its signature, and give them to Docker, under their tags."""
    from images.engine import dockerd  # noqa: PLC0415
    from images.ship import archive  # noqa: PLC0415

    dockerd.ensure()
    archive.load(Path(file), sha256=sha256, key=Path(key) if key else None, report=report, warn=_warn)


@task(
    iterable=["image"],
    help={
        "base": "a base of the catalogue; without it the first whose repositories answer",
        "image": _IMAGE,
        "key": "the key that signs: fingerprint or user id; without it OVERLAYD_SIGNING_KEY",
        "gnupg-home": "the GnuPG home that holds it; without it gpg's own",
        "unsigned": "make all but the signatures",
        "number": "the RPM's release, from 1; without it the commit's time and name (rpm/README.md)",
        "baseurl": "where the yum repository will be served, for overlayd.repo",
        "to": "the folder to make; without it dist/ of the checkout",
    },
)
def release(
    c: Context,  # noqa: ARG001
    *,
    base: str | None = None,
    image: list[str] | None = None,
    key: str | None = None,
    gnupg_home: str | None = None,
    unsigned: bool = False,
    number: str | None = None,
    baseurl: str | None = None,
    to: str | None = None,
) -> None:
    """Build what is missing and put all that is shipped into dist/, with sums, bills of materials, and signatures."""
    from images import signing  # noqa: PLC0415
    from images.bases import catalogue  # noqa: PLC0415
    from images.bases.local_repository import RPM_REPOSITORY  # noqa: PLC0415
    from images.engine import preflight  # noqa: PLC0415
    from images.engine.place import PLACE  # noqa: PLC0415
    from images.engine.process import Stop  # noqa: PLC0415
    from images.engine.runner import build_folder_locked  # noqa: PLC0415
    from images.ship import release as making  # noqa: PLC0415
    from images.ship import yum  # noqa: PLC0415
    from pipeline.targets import everything  # noqa: PLC0415
    from rpm import source  # noqa: PLC0415
    from rpm.inventory.target import INVENTORY  # noqa: PLC0415
    from rpm.inventory.target import NAME as INVENTORY_TARGET  # noqa: PLC0415

    preflight.check()
    # All that can be refused is checked before anything is built.
    if number is not None:
        os.environ[source.NUMBER] = number
        source.release(PLACE.root)
    place = Path(to).resolve() if to else PLACE.root / "dist"
    making.check_place(place)
    served = yum.checked(baseurl) if baseurl else yum.BASEURL
    signer = _signer(key, gnupg_home, unsigned)
    _short_names(image or [])
    stop = Stop()
    with signing.agent(signer) if signer else contextlib.nullcontext():
        if signer:
            signing.prove(signer)
        built = build([*everything(), INVENTORY_TARGET], base=base)
        with build_folder_locked(PLACE) as progress:
            making.make(
                making.Release(
                    place=PLACE,
                    base=catalogue.get(built),
                    images=tags(image or [], built),
                    rpms=sorted((PLACE.build / RPM_REPOSITORY.folder).glob("*.rpm")),
                    inventory=PLACE.build / INVENTORY,
                    to=place,
                    key=signer,
                    baseurl=served,
                ),
                stop,
                progress.report,
            )
    report(f"{place}: {'signed' if signer else 'not signed'}")


def _warn(line: str) -> None:
    sys.stderr.write(f"warning: {line}\n")


def tags(names: Iterable[str], base: str | None) -> list[str]:
    """The tags of images by their short names (of all images without names), on a base or on the one built last.

    Raises BuildError for an unknown name or base.
    """
    from images.bases import catalogue, choose  # noqa: PLC0415
    from images.engine.place import PLACE  # noqa: PLC0415

    chosen = base or choose.recall(PLACE.build)
    if chosen is None:
        raise BuildError("nothing is built yet", hint="invoke build-all")
    entry = catalogue.get(chosen)
    return [entry.tag(name) for name in _short_names(names)]


def _short_names(names: Iterable[str]) -> list[str]:
    asked = list(dict.fromkeys(names)) or [name for name in recipes.NAMES if recipes.get(name).container]
    for name in asked:
        recipes.get(name)
    return asked


def _signer(key: str | None, home: str | None, unsigned: bool) -> SigningKey | None:
    from images import signing  # noqa: PLC0415

    wanted = key or os.environ.get(signing.VARIABLE)
    if unsigned:
        if key or home:
            raise BuildError("--unsigned and a key to sign with", hint="give one or the other")
        return None
    if not wanted and not home:
        raise BuildError(
            "there is no key to sign the release with",
            hint=f"--key=FINGERPRINT, or {signing.VARIABLE}; --unsigned makes all but the signatures",
        )
    return signing.find(wanted, home=Path(home) if home else None)

"""The documents of a release: manifest.json, SHA256SUMS, and the README for its users."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from images.bases.base import Base
from images.engine import commit
from images.engine.annotations import timestamp
from images.engine.process import capture
from images.ship.compressed import CompressedImage, compression
from images.ship.yum import KEY_FILE, REPO_FILE
from images.signing import SigningKey

NAME = "manifest.json"
SUMS = "SHA256SUMS"
README = "README.md"
_TEMPLATE = Path(__file__).with_name("README.release.md")
_FORMAT = 1


def source(root: Path) -> dict[str, Any]:
    """The commit of a checkout or tarball, and whether its files are those of that commit. Raises BuildError."""
    return {"commit": commit.of(root).id, "clean": not commit.changed(root)}


def tools() -> dict[str, str]:
    """The programs that made the release, with their versions."""
    return {
        **{name: capture([name, "--version"]).partition("\n")[0] for name in ("createrepo_c", "rpm", "gpg")},
        "python": platform.python_version(),
        "cyclonedx-python-lib": metadata.version("cyclonedx-python-lib"),
        "compression of layers": compression(),
    }


def image(compressed: CompressedImage, archive: str, sbom: str) -> dict[str, Any]:
    """The entry of an image in the manifest. `archive` and `sbom` are paths in the release."""
    return {
        "name": compressed.name,
        "id": compressed.id,
        "digest": compressed.manifest.digest,
        "layers": [layer.digest for layer in compressed.layers],
        "annotations": dict(compressed.annotations),
        "archive": archive,
        "sbom": sbom,
    }


def document(
    *,
    version: str,
    epoch: int,
    origin: Mapping[str, Any],
    base: Base,
    key: SigningKey | None,
    images: Sequence[Mapping[str, Any]],
    rpms: Sequence[Mapping[str, str]],
    packages: Mapping[str, str],
    files: Mapping[str, Mapping[str, Any]],
) -> str:
    """The text of manifest.json. `packages` are versions by name, `files` sizes and sums by path."""
    return _json(
        {
            "format": _FORMAT,
            "name": "overlayd",
            "version": version,
            "created": timestamp(epoch),
            "source": origin,
            "base": {"name": base.name, "title": base.title},
            "signed": None if key is None else {"fingerprint": key.fingerprint, "by": key.uid},
            "images": images,
            "rpms": rpms,
            "packages": packages,
            "tools": tools(),
            "files": files,
        }
    )


def files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder, by its path there; signatures are skipped."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".asc")
    return {str(path.relative_to(folder)): file(path) for path in paths}


def file(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of one file."""
    with path.open("rb") as content:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def sums(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The sums in the format that `sha256sum --check` reads."""
    return "".join(f"{file['sha256']}  {path}\n" for path, file in sorted(found.items()))


def readme(
    *, version: str, base: Base, key: SigningKey | None, baseurl: str, images: Sequence[Mapping[str, Any]]
) -> str:
    """The README for users of the release: how to check it, install the RPM, and load images."""
    rows = "\n".join(f"| `{one['name']}` | `{one['archive']}` | `{one['digest']}` |" for one in images)
    fingerprint = re.sub(r"(.{4})(?=.)", r"\1 ", key.fingerprint) if key else ""
    text = _TEMPLATE.read_text()
    # A line that begins with `signed:` or `unsigned:` is for that kind of release only.
    kept, dropped = ("signed", "unsigned") if key else ("unsigned", "signed")
    lines = [line for line in text.splitlines() if not line.startswith(f"{dropped}:")]
    text = "\n".join(
        line.removeprefix(f"{kept}:").removeprefix(" ") if line.startswith(kept) else line for line in lines
    )
    text += "\n"
    values = {
        "VERSION": version,
        "BASE": base.name,
        "TITLE": base.title,
        "BASEURL": baseurl,
        "KEY_FILE": KEY_FILE,
        "REPO_FILE": REPO_FILE,
        "FINGERPRINT": fingerprint,
        "IMAGES": rows,
        "FIRST_ARCHIVE": images[0]["archive"] if images else "",
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"

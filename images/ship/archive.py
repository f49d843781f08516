"""Writes images to one file, for machines without a registry, and loads them from it.

The tar is an OCI image layout (`skopeo copy oci-archive:…`). Its manifest.json makes it also what `docker load` reads
since 1.10 (moby's image/tarexport: files may have any name, layers may be gzipped). FILE.sha256 lies beside it, as
sha256sum writes it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from images import signing
from images.engine import containers
from images.engine.blobs import INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, REF_NAME, index_document
from images.engine.errors import BuildError
from images.engine.files import written_whole
from images.engine.process import Stop
from images.ship.compressed import CompressedImage, index_entries

_CHUNK = 1 << 20
_LISTING = "manifest.json"
_NAME_KEYS = (REF_NAME, "io.containerd.image.name")
_NAME = re.compile(r"(docker\.io/)?overlayd/[a-z0-9][a-z0-9_.-]*:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SUM = re.compile(r"(?P<sum>[0-9a-f]{64})(?: [ *].+)?\n?")


def save(images: Sequence[CompressedImage], to: Path, stop: Stop) -> str:
    """Write images to a file, and its SHA-256 to another beside it; the sum in hexadecimal.

    The same images give the same bytes. Neither file is replaced before both are whole. Raises BuildError (a full disk,
    a damaged blob) and Cancelled.
    """
    try:
        # The old sum goes first and the new one comes last: between them the archive has none, and is refused.
        with written_whole(sum_file(to)) as half_sum, written_whole(to) as half:
            with half.open("wb") as file:
                out = _Hashing(file)
                _write(images, out, stop)
                file.flush()
                os.fsync(file.fileno())
            half_sum.write_text(f"{out.hashed.hexdigest()}  {to.name}\n")
            sum_file(to).unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(f"{to} was not written: {error.strerror}", hint=_hint(error, images, to)) from error
    return out.hashed.hexdigest()


def sum_file(archive: Path) -> Path:
    """The file with the SHA-256 of an archive."""
    return archive.with_name(f"{archive.name}.sha256")


def load(
    file: Path,
    *,
    sha256: str | None = None,
    key: Path | None = None,
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> dict[str, str]:
    """Give an archive to Docker; the IDs of its images by tag. Its SHA-256 must be `sha256`, or that in FILE.sha256.

    With `key`, a file with a public key, the signature beside the archive must be by that key. `report` is called with
    a line for each image, `warn` with what was not checked. Raises BuildError when a check fails or Docker refuses it.
    """
    expected = (sha256 or _expected(file)).lower()
    try:
        content = file.open("rb")
    except OSError as error:
        raise BuildError(f"{file} cannot be read: {error.strerror}") from error
    with content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != expected:
            raise BuildError(
                f"{file} has the SHA-256 {found}, and {expected} was expected",
                hint="it was changed or cut short on its way: copy it again; nothing was loaded",
            )
        if key is not None:
            _verify(file, key)
        elif sha256 is None:
            warn(_not_who(file))
        # The open file is what was checked; another file may have its name by now.
        images = listed(file, content)
        content.seek(0)
        with containers.engine() as client:
            for line in client.load_image(content, quiet=True) or ():
                if "error" in line:
                    raise BuildError(f"Docker did not load {file}: {line['error']}")
            for tag, image in images.items():
                if client.inspect_image(tag)["Id"] != image:
                    raise BuildError(f"Docker gave {tag} another image than {image}, which {file} holds")
                report(f"{tag}  {image}")
    return images


def signature_file(archive: Path) -> Path:
    """The file with the signature of an archive, which `invoke release` makes."""
    return archive.with_name(f"{archive.name}.asc")


def listed(file: Path, content: IO[bytes] | None = None) -> dict[str, str]:
    """The IDs of the images in an archive, by their tags. Raises BuildError for any other file.

    And for an archive with names that are not overlayd/…: it could replace any image that this machine uses.
    """
    try:
        with tarfile.open(file) if content is None else _rewound(content) as tar:
            found = {
                tag: entry["Config"].removeprefix("blobs/").replace("/", ":", 1)
                for entry in _document(tar, _LISTING)
                for tag in entry["RepoTags"]
            }
            # skopeo, and a Docker that keeps images in containerd, take names from here.
            names = {
                value
                for entry in _document(tar, INDEX_FILE)["manifests"]
                for key, value in entry.get("annotations", {}).items()
                if key in _NAME_KEYS
            }
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{file} is no archive of images: {error}", hint="`invoke images.save` makes them") from error
    for name in sorted({*found, *names}, key=str):
        if not _NAME.fullmatch(str(name)):
            raise BuildError(
                f"{file} holds an image that is named {str(name)[:100]!r}, which is no name of ours",
                hint="names of ours are overlayd/NAME:TAG; nothing was loaded",
            )
    return found


def _rewound(content: IO[bytes]) -> tarfile.TarFile:
    content.seek(0)
    return tarfile.open(fileobj=content)


def _document(tar: tarfile.TarFile, name: str) -> Any:
    members = [member for member in tar.getmembers() if member.name.removeprefix("./") == name]
    if len(members) != 1:
        # Of two files of one name we might check one, and Docker read the other.
        raise ValueError(f"{name} is there {len(members)} times")
    return json.load(tar.extractfile(members[0]) or io.BytesIO())


def _verify(file: Path, key: Path) -> None:
    try:
        public = key.read_bytes()
    except OSError as error:
        raise BuildError(f"the key {key} cannot be read: {error.strerror}") from error
    signature = signature_file(file)
    if not signature.exists():
        raise BuildError(
            f"{file} has no {signature.name} beside it, which the key was given to check",
            hint="copy it too: `invoke release` makes it; nothing was loaded",
        )
    signing.verify(file, signature, public)


def _not_who(file: Path) -> str:
    said = f"{sum_file(file).name} shows that {file.name} is whole, not who made it: a sum is no signature"
    if signature_file(file).exists():
        return f"{said}. There is a signature: --key=FILE, with the public key, checks it"
    return said


def _write(images: Sequence[CompressedImage], out: _Hashing, stop: Stop) -> None:
    listing = [
        {"Config": image.config.path, "RepoTags": [image.name], "Layers": [layer.path for layer in image.layers]}
        for image in images
    ]
    blobs = {blob.digest: (image.path(blob), blob) for image in images for blob in image.blobs}
    # Written as a stream, documents first: to see what an archive holds its beginning is enough.
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for name, document in (
            (_LISTING, listing),
            (LAYOUT_FILE, LAYOUT_VERSION),
            (INDEX_FILE, index_document(index_entries(images))),
        ):
            content = json.dumps(document, sort_keys=True).encode() + b"\n"
            tar.addfile(_entry(name, len(content)), io.BytesIO(content))
        for place, blob in blobs.values():
            with place.open("rb") as source:
                checked = _Checked(source, stop)
                tar.addfile(_entry(blob.path, blob.size), checked)
            if f"sha256:{checked.hashed.hexdigest()}" != blob.digest:
                raise BuildError(
                    f"{place} is damaged: its content has another digest",
                    hint="remove it; it is made again by the same command",
                )


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o644
    entry.size = size
    return entry


class _Hashing(io.RawIOBase):
    """Writes to a file and hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.hashed = hashlib.sha256()

    def write(self, data: bytes) -> int:  # type: ignore[override]  # tarfile writes bytes only
        self.hashed.update(data)
        return self._file.write(data)


class _Checked(io.RawIOBase):
    """Reads a file and hashes what is read. Raises Cancelled when the work is stopped."""

    def __init__(self, file: IO[bytes], stop: Stop) -> None:
        super().__init__()
        self._file = file
        self._stop = stop
        self.hashed = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        self._stop.check()
        data = self._file.read(size)
        self.hashed.update(data)
        return data


def _expected(file: Path) -> str:
    beside = sum_file(file)
    try:
        found = _SUM.fullmatch(beside.read_text())
    except FileNotFoundError:
        if not file.exists():
            raise BuildError(f"there is no {file}") from None
        raise BuildError(
            f"{file} has no {beside.name} beside it",
            hint="copy it too, or give the sum that you were told: --sha256",
        ) from None
    except (OSError, ValueError) as error:
        raise BuildError(f"{beside} cannot be read: {error}") from error
    if found is None:
        raise BuildError(f"{beside} holds no SHA-256", hint="copy it again from where the archive came from")
    return found["sum"]


def _hint(error: OSError, images: Sequence[CompressedImage], to: Path) -> str | None:
    if error.errno != errno.ENOSPC:
        return None
    needed = sum({blob.digest: blob.size for image in images for blob in image.blobs}.values())
    return f"it needs {needed / 2**20:.0f} MiB in {to.parent}; nothing was left there"

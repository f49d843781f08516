"""Layers: the same content gives the same bytes, and every kind of change is in them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from images.engine import layers
from images.engine.errors import Cancelled
from images.engine.process import Stop

EPOCH = 1_700_000_000
LATER = EPOCH + 1000


def exported(files: Mapping[str, bytes | str | None], *, mtime: int = LATER) -> io.BytesIO:
    """A container's file system as Docker exports it: bytes are files, a text is a link's target, None a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.uname, entry.gname, entry.uid = mtime, "root", "root", 7
            entry.pax_headers = {"atime": f"{mtime}.5", "SCHILY.xattr.security.capability": "\x01\udc80"}
            match content:
                case None:
                    entry.type = tarfile.DIRTYPE
                case str():
                    entry.type, entry.linkname = tarfile.SYMTYPE, content
                case bytes():
                    entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    stream.seek(0)
    return stream


def layer(to: Path, changes: Mapping[str, int], files: Mapping[str, bytes | str | None], **more: int) -> Path:
    listed = [{"Path": path, "Kind": kind} for path, kind in changes.items()]
    layers.of_changes(listed, exported(files, **more), to, epoch=EPOCH, stop=Stop())
    return to


def content(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar) as opened:
        return {entry.name: entry for entry in opened}


FILES: Mapping[str, bytes | str | None] = {"etc": None, "etc/a": b"new", "etc/b": b"as before", "etc/link": "a"}


def test_only_what_changed_is_in_a_layer(tmp_path: Path) -> None:
    found = content(layer(tmp_path / "x", {"/etc": 0, "/etc/a": 1, "/etc/link": 1, "/run/lock": 1}, FILES))
    assert list(found) == ["etc", "etc/a", "etc/link"]
    assert found["etc/link"].linkname == "a"
    assert {entry.uid for entry in found.values()} == {7}


def test_times_owners_names_and_order_of_changes_do_not_count(tmp_path: Path) -> None:
    one = layer(tmp_path / "1", {"/etc/a": 1, "/etc": 0}, FILES)
    two = layer(tmp_path / "2", {"/etc": 0, "/etc/a": 1}, FILES, mtime=LATER + 5)
    assert one.read_bytes() == two.read_bytes()
    old = content(layer(tmp_path / "3", {"/etc/a": 1}, FILES, mtime=EPOCH - 5))
    assert old["etc/a"].mtime == EPOCH - 5, "a time before the epoch is the file's own"
    assert content(one)["etc/a"].mtime == EPOCH


def test_capabilities_of_files_are_kept_as_they_are(tmp_path: Path) -> None:
    found = content(layer(tmp_path / "x", {"/etc/a": 1}, FILES))
    assert found["etc/a"].pax_headers["SCHILY.xattr.security.capability"] == "\x01\udc80"
    assert "atime" not in found["etc/a"].pax_headers


def test_what_was_deleted_is_marked(tmp_path: Path) -> None:
    found = content(layer(tmp_path / "x", {"/etc": 0, "/etc/gone": 2, "/top": 2}, FILES))
    assert list(found) == ["etc", "etc/.wh.gone", ".wh.top"]


def test_a_folder_that_was_made_anew_hides_what_was_in_it(tmp_path: Path) -> None:
    found = content(layer(tmp_path / "x", {"/etc": 2, "/etc/a": 1}, FILES))
    assert list(found) == ["etc", "etc/a", "etc/.wh..wh..opq"]


def test_a_stopped_build_stops_reading(tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Cancelled):
        layers.of_changes([], exported(FILES), tmp_path / "x", epoch=EPOCH, stop=stop)


def test_a_folder_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        root = tmp_path / name / "root"
        (root / "usr/bin").mkdir(parents=True)
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (root / "usr/bin" / file).write_text(file)
        with (tmp_path / f"{name}.log").open("wb", buffering=0) as log:
            layers.of_folder(root, tmp_path / f"{name}.tar", epoch=EPOCH, log=log, stop=Stop())
        made.append((tmp_path / f"{name}.tar").read_bytes())
    assert made[0] == made[1]

"""The folder of a release: put in place when whole, never in place of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.bases.catalogue.debian12_rpm import BASE
from images.engine.errors import BuildError
from images.ship import manifest, release
from images.signing import SigningKey

IMAGES = [{"name": "overlayd/base:debian12-rpm", "archive": "images/base.tar", "digest": "sha256:" + "a" * 64}]


def stopped(to: Path) -> None:
    """Begin a release and be stopped."""
    with release.beside(to) as folder:
        assert not list(folder.iterdir())
        (folder / "file").write_text("new")
        raise KeyboardInterrupt


def test_a_new_release_takes_the_place_of_the_old_one_in_one_step(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with release.beside(tmp_path / "dist") as folder:
            (folder / "file").write_text(text)
    assert (tmp_path / "dist/file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["dist"]


def test_a_release_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    with release.beside(tmp_path / "dist") as folder:
        (folder / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path / "dist")
    assert (tmp_path / "dist/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["dist"]


def test_what_a_killed_release_left_is_cleared_and_an_old_one_it_had_moved_comes_back(tmp_path: Path) -> None:
    (tmp_path / "dist.old").mkdir()
    (tmp_path / "dist.old/file").write_text("old")
    (tmp_path / "dist.half").mkdir()
    (tmp_path / "dist.half/rest").write_text("half")
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path / "dist")
    assert (tmp_path / "dist/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["dist"]


def test_a_folder_that_is_no_release_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    release.check_place(tmp_path / "mine")
    (tmp_path / "mine/file").write_text("mine")
    with pytest.raises(BuildError, match="is no release"):
        release.check_place(tmp_path / "mine")
    (tmp_path / "mine" / manifest.NAME).write_text("{}")
    release.check_place(tmp_path / "mine")
    with pytest.raises(BuildError, match="no folder"):
        release.check_place(tmp_path / "none/dist")
    with pytest.raises(BuildError, match="in /proc no folder can be made"):
        release.check_place(Path("/proc/dist"))


@pytest.mark.parametrize("key", [None, SigningKey(fingerprint="ABCD" * 10, uid="x")], ids=["unsigned", "signed"])
def test_the_readme_says_what_this_release_is_and_leaves_no_blank_to_fill(key: SigningKey | None) -> None:
    text = manifest.readme(version="1.2", base=BASE, key=key, baseurl="http://198.18.0.1/yum", images=IMAGES)
    assert "@" not in text
    assert "signed:" not in text
    assert ("ABCD ABCD" in text) == (key is not None)
    assert ("not signed" in text) == (key is None)
    assert "docker load --input images/base.tar" in text


def test_sums_are_as_sha256sum_reads_them_and_name_no_signature(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.tar").write_bytes(b"")
    (tmp_path / "images/a.tar.asc").write_bytes(b"signature")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert manifest.sums(manifest.files(tmp_path)) == f"{empty}  images/a.tar\n"

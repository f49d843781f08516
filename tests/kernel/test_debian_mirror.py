"""debian12-rpm from mirrors on disk, as on a machine without a network: apt accepts Debian's signature only."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.bases import catalogue
from images.bases.base import Base
from images.bases.catalogue.debian12_rpm import SUITE
from images.bases.debian import repository, sources
from images.engine.errors import BuildCommandFailed, BuildError
from images.engine.step import Step
from tests.testbed import debian_mirror
from tests.testbed.packages import a_step, gnupg

FETCHED = Path(__file__).resolve().parents[2] / "build" / SUITE.fetched

pytestmark = pytest.mark.skipif(
    not debian_mirror.indices() or not FETCHED.is_dir() or shutil.which("mmdebstrap") is None,
    reason="needs Debian 12's lists, mmdebstrap, and the packages that a build of debian12-rpm fetched",
)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return debian_mirror.make(tmp_path_factory.mktemp("mirror"), FETCHED)


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Step]:
    # The same command with two packages only, which are unpacked but not configured.
    monkeypatch.setattr(repository, "packages_of", lambda _suite: ("hostname",))
    monkeypatch.setattr(repository, "VARIANT", "extract")
    monkeypatch.setattr(repository, "LOCALES", (), raising=False)
    monkeypatch.setattr(repository, "APT_OPTIONS", (*repository.APT_OPTIONS, debian_mirror.UNCOMPRESSED))
    with a_step(tmp_path / "s", repository.targets(SUITE, catalogue.get("debian12-rpm"))[0]) as found:
        yield found


def at(mirrors: dict[str, str]) -> Base:
    return dataclasses.replace(catalogue.get("debian12-rpm"), mirrors=mirrors)


def test_only_the_mirror_on_disk_is_used(step: Step, mirror: dict[str, str]) -> None:
    lines = sources.lines(SUITE, at(mirror))
    assert {line.split()[2] for line in lines} == set(debian_mirror.indices())
    assert all(line.split()[1].startswith("file:///") for line in lines)
    repository.make_root(step, SUITE, at({"debian": mirror["debian"]}))
    root = step.output(SUITE.root)
    assert (root / "bin/hostname").exists()
    used = (root / "etc/apt/sources.list").read_text()
    assert "copy:///" in used
    assert "http" not in used


def test_a_mirror_with_another_signature_is_refused(step: Step, mirror: dict[str, str], tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(mirror["debian"].removeprefix("file://"), forged, symlinks=True)
    release = forged / f"dists/{SUITE.codename}/InRelease"
    text = release.read_text()
    body = text.partition("\n\n")[2].partition("\n-----BEGIN PGP SIGNATURE")[0]
    (tmp_path / "Release").write_text(body + "\n")
    with gnupg(tmp_path / "g") as ring:
        ring.make("mallory")
        ring.gpg("--output", release, "--clear-sign", tmp_path / "Release")
        with pytest.raises(BuildCommandFailed, match=r"NO_PUBKEY|not signed|couldn't be verified"):
            repository.make_root(step, SUITE, at({"debian": f"file://{forged}"}))


def test_a_mirror_whose_index_was_changed_is_refused(step: Step, mirror: dict[str, str], tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(mirror["debian"].removeprefix("file://"), forged, symlinks=True)
    packages = forged / f"dists/{SUITE.codename}/main/binary-amd64/Packages"
    content = packages.read_bytes()
    packages.write_bytes(content.replace(b"Package: hostname", b"Package: hostnamf", 1))
    with pytest.raises(BuildCommandFailed, match=r"Hash Sum mismatch|unexpected size|Unable to locate"):
        repository.make_root(step, SUITE, at({"debian": f"file://{forged}"}))


def test_a_mirror_of_security_updates_alone_is_not_enough(mirror: dict[str, str]) -> None:
    with pytest.raises(BuildError, match="none for Debian") as caught:
        sources.lines(SUITE, at({"security": "file:///srv/debian-security"}))
    assert caught.value.hint == "--mirror debian=URL"

"""Repositories that we make: which key signs them, and that dnf accepts only that signature."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import signing
from images.bases import catalogue, dnf, local_repository
from images.bases.base import Base
from images.engine.errors import BuildCommandFailed, BuildError
from images.engine.step import Step
from tests.testbed.needs import needs
from tests.testbed.packages import a_step, build, gnupg, index
from tests.testbed.polling import eventually
from tests.testbed.processes import command_line

pytestmark = needs("dnf", "rpmbuild", "gpg", "createrepo_c")
BASE = dataclasses.replace(catalogue.get("debian12-rpm"), packages={"base": ("own",)})


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p") / "repo"
    build(folder, "own")
    index(folder)
    return folder


@pytest.fixture
def step(tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Step]:
    """A build step whose build folder has an unsigned repository."""
    monkeypatch.delenv(signing.VARIABLE, raising=False)
    with a_step(tmp_path / "s", BASE.repository_targets(BASE)[-1]) as found:
        shutil.copytree(packages, found.build / BASE.repository)
        (found.build / BASE.keys).parent.mkdir()
        yield found


def sign(step: Step, base: Base = BASE) -> bytes:
    local_repository.sign(step, step.build / base.repository, step.build / base.keys)
    return (step.build / base.keys).read_bytes()


def test_a_key_of_the_build_folder_is_made_once_and_is_for_root_alone(step: Step, tmp_path: Path) -> None:
    assert sign(step) == sign(step)
    home = step.build / local_repository.HOME
    assert home.stat().st_mode & 0o777 == 0o700
    dnf.install_root(step, BASE, tmp_path / "root", ["own"])


def test_no_agent_is_left(step: Step) -> None:
    sign(step)
    # It ends when it is told to, but not before gpgconf does.
    eventually("no process names the folder", lambda: not processes_naming(step.build))


def processes_naming(folder: Path) -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*") if str(folder) in command_line(path.name)]


def test_a_repository_signed_with_another_key_than_its_public_one_is_refused(step: Step, tmp_path: Path) -> None:
    before = sign(step)
    shutil.rmtree(step.build / local_repository.HOME)
    assert sign(step) != before
    (step.build / BASE.keys).write_bytes(before)
    with pytest.raises(BuildCommandFailed, match="Bad GPG signature"):
        dnf.install_root(step, BASE, tmp_path / "root", ["own"])


def test_the_users_key_signs_when_it_is_named(step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gnupg(tmp_path / "g") as ring:
        name = ring.make("packager")
        monkeypatch.setenv("GNUPGHOME", str(ring.home))
        monkeypatch.setenv(signing.VARIABLE, name)
        sign(step)
    assert not (step.build / local_repository.HOME).exists()
    signing.verify(
        step.build / BASE.repository / "repodata/repomd.xml",
        step.build / BASE.repository / "repodata/repomd.xml.asc",
        (step.build / BASE.keys).read_bytes(),
    )
    dnf.install_root(step, BASE, tmp_path / "root", ["own"])


def test_a_home_without_a_key_is_an_error_that_says_what_to_do(step: Step) -> None:
    home = step.build / local_repository.HOME
    home.mkdir(mode=0o700, parents=True)
    with pytest.raises(BuildError, match="no secret key") as caught:
        sign(step)
    assert caught.value.hint == f"remove {home}: the next build makes a new key"

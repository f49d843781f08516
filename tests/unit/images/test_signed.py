"""A base of signed packages, from a repository on disk: the CentOS bases' way, with dnf, rpm and real signatures."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.bases import centos, dnf, keys
from images.bases.base import Base, Repository
from images.bases.centos_stream9 import BASE
from images.engine.errors import BuildError, CommandFailed
from images.engine.oci import Layout
from images.engine.process import Stop
from images.engine.step import Step

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="dnf --installroot needs root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("dnf", "rpmbuild", "rpmsign", "gpg", "createrepo_c"))),
        reason="needs dnf, rpm, gpg and createrepo_c",
    ),
]

_SPEC = """\
Name: {name}
Version: 1
Release: 1
Summary: a package of the test
License: Apache-2.0
BuildArch: noarch
%description
A package of the test.
%files
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror:
    """A repository on disk with the signed package `signed` and the unsigned one `unsigned`, and its key."""

    base: Base


def command(*argv: str | Path, env: dict[str, str] | None = None, stdin: str | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    # gpg's agent has a socket in its home, whose path must be short.
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    env = {"GNUPGHOME": str(home), "HOME": str(home)}
    command(
        *("gpg", "--batch", "--passphrase", "", "--quick-generate-key", "overlayd test <test@example.com>", "rsa2048"),
        env=env,
    )
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "key").write_text(command("gpg", "--armor", "--export", env=env))
    for name in ("signed", "unsigned"):
        spec = folder / f"{name}.spec"
        spec.write_text(_SPEC.format(name=name))
        command("rpmbuild", "-bb", "--define", f"_topdir {folder}/top", "--define", f"_rpmdir {folder}", spec, env=env)
    command(
        *("rpmsign", "--define", f"__gpg {shutil.which('gpg')}", "--define", "_gpg_name overlayd test"),
        *("--addsign", folder / "noarch/signed-1-1.noarch.rpm"),
        env=env,
    )
    command("createrepo_c", "--quiet", folder / "noarch")
    command("gpgconf", "--kill", "gpg-agent", env=env)
    repository = Repository(
        name="test",
        url=f"file://{folder}/noarch",
        key_url=f"file://{folder}/key",
        key_fingerprint=keys.fingerprint((folder / "key").read_bytes()),
    )
    assert repository.key_fingerprint in command("gpg", "--show-keys", "--with-colons", folder / "key", env=env)
    return Mirror(base=dataclasses.replace(BASE, repositories=(repository,)))


@pytest.fixture
def step(tmp_path: Path, mirror: Mirror) -> Iterator[Step]:
    (tmp_path / "scratch").mkdir()
    with (tmp_path / "log").open("wb", buffering=0) as log:
        yield Step(
            target=centos.repository_targets(mirror.base)[0],
            inputs={},
            root=tmp_path,
            build=tmp_path / "build",
            scratch=tmp_path / "scratch",
            log=log,
            stop=Stop(),
            owner="test",
            epoch=0,
            layout=Layout(tmp_path / "oci"),
        )


def test_signed_packages_are_fetched_and_installed(step: Step, mirror: Mirror) -> None:
    centos.fetch(step, mirror.base, ["signed"])
    step.finish()
    repository = step.build / mirror.base.repository
    assert (repository / "signed-1-1.noarch.rpm").exists()
    root = step.scratch / "installed"
    dnf.install_root(step, mirror.base, root, ["signed"])
    listed = command("rpm", "--root", root, "--define", f"_dbpath {mirror.base.rpm_dbpath}", "-q", "signed")
    assert listed.strip() == "signed-1-1.noarch"


def test_a_package_without_a_signature_is_refused(step: Step, mirror: Mirror) -> None:
    with pytest.raises(CommandFailed, match="unsigned"):
        centos.fetch(step, mirror.base, ["unsigned"])


def test_another_key_is_refused_before_anything_is_fetched(step: Step, mirror: Mirror) -> None:
    [repository] = mirror.base.repositories
    other = dataclasses.replace(repository, key_fingerprint="0" * 40)
    with pytest.raises(BuildError, match="has 0000"):
        centos.fetch(step, dataclasses.replace(mirror.base, repositories=(other,)), ["signed"])
    assert not list(step.scratch.rglob("*.rpm"))

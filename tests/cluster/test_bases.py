"""The local repository of the base under test: what its packages bring, tampering, and yum and rpm inside."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images.bases import catalogue, dnf
from images.bases.base import Base
from images.engine import sandbox
from images.engine.errors import BuildCommandFailed
from images.engine.step import Step
from tests.testbed.cluster.create import ROOT
from tests.testbed.packages import a_step, command, gnupg

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="dnf --installroot needs root"),
    pytest.mark.lane("builds"),
]
LOADER = "/lib64/ld-linux-x86-64.so.2"
# A package, a program of it, and how many packages its installation may bring. Debian 12's repository has about 240.
SINGLE = {
    "iproute": (60, "/usr/bin/ip"),
    "openssh-server": (110, "/usr/sbin/sshd"),
    "docker-ce": (110, "/usr/sbin/dockerd"),
}


@pytest.fixture(scope="module")
def debian(base: str) -> Base:
    found = catalogue.get(base)
    if found.signed:
        pytest.skip(f"the packages of {base} are the distribution's own")
    return found


@pytest.fixture
def step(debian: Base, tmp_path: Path) -> Iterator[Step]:
    """A step whose build folder has the repository that images are built from."""
    with a_step(tmp_path / "s", debian.repository_targets(debian)[-1]) as found:
        for path, link in ((debian.repository, ["--link"]), (debian.keys, [])):
            (found.build / path).parent.mkdir(parents=True, exist_ok=True)
            # Hard links to 200 MB of packages: a test may replace a file, but must not write into one.
            command("cp", "--archive", *link, ROOT / "build" / path, found.build / path)
        yield found


def packages(root: Path, dbpath: str = "/var/lib/rpm") -> set[str]:
    return set(command("rpm", "--root", root, "--define", f"_dbpath {dbpath}", "-qa", "--qf", "%{NAME}\n").split())


@pytest.mark.parametrize("name", SINGLE)
def test_a_package_brings_the_libraries_that_its_programs_need_and_few_others(
    step: Step, debian: Base, tmp_path: Path, name: str
) -> None:
    most, program = SINGLE[name]
    root = tmp_path / "root"
    dnf.install_root(step, debian, root, [name])
    there = packages(root)
    assert len(there) <= most
    assert {"iproute2", "openssh-server", "docker.io"} - there, "everything came with one package"
    programs = [*(root / "usr/bin").iterdir(), *(root / "usr/sbin").iterdir(), *(root / "usr/libexec").rglob("*")]
    listed = ["/" + str(path.relative_to(root)) for path in programs if path.is_file() and is_elf(path)]
    assert program in listed
    script = f'for file; do {LOADER} --list "$file" 2>&1 || true; done'
    inside = [str(word) for word in sandbox.inside(root, ["sh", "-c", script, "sh", *listed])]
    said = subprocess.run(inside, capture_output=True, text=True, check=True, timeout=120).stdout
    assert said.count("libc.so.6 =>") >= 2
    assert "not found" not in said


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return not path.is_symlink() and file.read(4) == b"\x7fELF"


def change_package(repository: Path, _: Path) -> None:
    [rpm] = repository.glob("setup-*.rpm")
    content = rpm.read_bytes()
    rpm.unlink()
    rpm.write_bytes(content[:-8] + bytes(8))


def change_metadata(repository: Path, _: Path) -> None:
    repomd = repository / "repodata/repomd.xml"
    content = repomd.read_bytes()
    repomd.unlink()
    repomd.write_bytes(content.replace(b"<revision>", b"<revision>1"))


def index_again(repository: Path, scratch: Path) -> None:
    """Change a package and make matching metadata, as somebody does who has no key to sign it."""
    signature = repository / "repodata/repomd.xml.asc"
    kept = shutil.copy(signature, scratch / "kept")
    change_package(repository, scratch)
    command("createrepo_c", "--quiet", repository)
    shutil.copy(kept, signature)


def remove_signature(repository: Path, _: Path) -> None:
    (repository / "repodata/repomd.xml.asc").unlink()


def sign_otherwise(repository: Path, scratch: Path) -> None:
    """Sign with another key, and put that key beside the packages."""
    (repository / "repodata/repomd.xml.asc").unlink()
    with gnupg(scratch / "g") as ring:
        ring.make("mallory")
        ring.detached("mallory", repository / "repodata/repomd.xml")
        (repository / "keys.asc").write_bytes(ring.public("mallory"))


# The manipulation, and dnf's message about it.
TAMPERED: dict[Callable[[Path, Path], None], str] = {
    change_package: "incorrect checksum",
    change_metadata: "GPG signature verification error: Bad GPG signature",
    index_again: "GPG signature verification error: Bad GPG signature",
    remove_signature: "GPG verification is enabled, but GPG signature is not available",
    sign_otherwise: "GPG signature verification error: Bad GPG signature",
}


@pytest.mark.parametrize("tamper", TAMPERED)
def test_a_repository_that_was_tampered_with_is_refused(
    step: Step, debian: Base, tmp_path: Path, tamper: Callable[[Path, Path], None]
) -> None:
    tamper(step.build / debian.repository, tmp_path)
    root = tmp_path / "root"
    with pytest.raises(BuildCommandFailed, match=TAMPERED[tamper]):
        dnf.install_root(step, debian, root, ["setup"])
    assert not (root / "etc/passwd").exists()


def test_a_two_stage_root_has_the_database_of_the_rpm_inside(step: Step, debian: Base, tmp_path: Path) -> None:
    # This machine's rpm and the base's own rpm have the database in different places, so its place shows who wrote it.
    outer = "/usr/lib/sysimage/outer"
    base = dataclasses.replace(debian, rpm_dbpath=outer, bootstrap=("dnf", "yum", "rpm", "gnupg2", "bash", "coreutils"))
    root = tmp_path / "root"
    dnf.install_root(step, base, root, ["bash", "coreutils", "iproute"])
    assert (root / "var/lib/rpm/rpmdb.sqlite").exists()
    assert not (root / outer.lstrip("/")).exists()
    there = packages(root)
    assert {"bash", "coreutils", "iproute2"} <= there
    assert "dnf" not in there, "the tool's packages are not the root's"
    assert not (tmp_path / "root.tool").exists()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()

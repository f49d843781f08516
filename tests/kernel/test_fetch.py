"""A base of signed packages, fetched with dnf, rpm and gpg from mirrors on disk and over HTTP, as CentOS bases are.

Whatever a mirror does wrong, the error names the fault and the URL, comes within a time limit, and leaves no result.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images.bases import dnf, fetch, mirror_probe
from images.bases.base import Base, Repository
from images.bases.catalogue.centos_stream9 import BASE
from images.engine.errors import BuildError
from images.engine.step import Step
from tests.testbed.answering import HttpReply
from tests.testbed.needs import needs
from tests.testbed.packages import a_step, build, command, gnupg, index, repository, served

pytestmark = needs("dnf", "rpmbuild", "rpmsign", "gpg", "createrepo_c")
REPOMD = "/repodata/repomd.xml"
NEVER = threading.Event()
PAGE = b"<!DOCTYPE html><html><head><title>Sign in to the network</title></head></html>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror:
    """A repository on disk, and the key and fingerprint with which its packages are signed."""

    folder: Path
    key: Path
    fingerprint: str

    def base(self, url: str | None = None, **changes: str) -> Base:
        """A base of this repository only, at another URL if one is given."""
        found = repository(url or f"file://{self.folder}", f"file://{self.key}", self.fingerprint)
        return with_repository(dataclasses.replace(found, **changes))


def with_repository(*repositories: Repository) -> Base:
    return dataclasses.replace(
        BASE, repositories=repositories, packages={"base": ("signed",), "docker": ("signed", "nowhere")}
    )


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    folder = tmp_path_factory.mktemp("m") / "repo"
    with gnupg(tmp_path_factory.mktemp("g")) as ring:
        names = {name: ring.make(name) for name in ("good", "other")}
        sub = ring.make("sub", usage="cert")
        ring.gpg("--quick-add-key", sub, "rsa2048", "sign")
        for name, signer in {"signed": "good", "unsigned": None, "foreign": "other", "bysub": "sub"}.items():
            rpm = build(folder, name)
            if signer:
                ring.sign(signer, rpm)
        build(folder, "broken", "Requires: not-there")
        index(folder)
        key = folder.parent / "key"
        key.write_bytes(ring.public("good"))
        (folder.parent / "sub").write_bytes(ring.public("sub"))
        (folder.parent / "sub.fingerprint").write_text(sub)
        yield Mirror(folder=folder, key=key, fingerprint=names["good"])


@pytest.fixture
def step(tmp_path: Path, mirror: Mirror) -> Iterator[Step]:
    with a_step(tmp_path / "s", fetch.targets(mirror.base())[0]) as found:
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limits, shortened."""
    monkeypatch.setattr(mirror_probe, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(fetch, "_PATIENCE", ("--setopt=timeout=1", "--setopt=minrate=1000", "--setopt=retries=1"))


def refused(step: Step, base: Base, package: str = "signed") -> str:
    """The error of a fetch that fails; asserts that it left no result and took at most 20 s."""
    begin = time.monotonic()
    with pytest.raises(BuildError) as caught:
        fetch.fetch(step, base, [package])
    assert time.monotonic() - begin < 20
    step.abandon()
    assert not step.build.exists()
    return str(caught.value)


def test_signed_packages_are_fetched_and_installed(step: Step, mirror: Mirror) -> None:
    base = mirror.base()
    fetch.fetch(step, base, ["signed"])
    step.finish()
    assert [path.name for path in (step.build / base.repository).glob("*.rpm")] == ["signed.rpm"]
    root = step.scratch / "installed"
    dnf.install_root(step, base, root, ["signed"])
    listed = command("rpm", "--root", root, "--define", f"_dbpath {base.rpm_dbpath}", "-q", "signed")
    assert listed.strip() == "signed-1-1.noarch"


def test_a_package_signed_by_a_subkey_of_the_expected_key_is_taken(step: Step, mirror: Mirror) -> None:
    folder = mirror.key.parent
    fingerprint = (folder / "sub.fingerprint").read_text()
    base = mirror.base(key_url=f"file://{folder / 'sub'}", key_fingerprint=fingerprint)
    fetch.fetch(step, base, ["bysub"])
    assert list(step.output(base.repository).glob("bysub*.rpm"))


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("unsigned", "Package unsigned.rpm is not signed"),
        ("foreign", "Public key for foreign.rpm is not installed"),
    ],
)
def test_a_package_without_a_good_signature_is_refused(step: Step, mirror: Mirror, package: str, expected: str) -> None:
    assert expected in refused(step, mirror.base(), package)


def test_another_key_is_refused_before_anything_is_fetched(step: Step, mirror: Mirror) -> None:
    assert f"expected is {'0' * 40}" in refused(step, mirror.base(key_fingerprint="0" * 40))
    assert not list(step.scratch.rglob("*.rpm"))


def test_a_key_that_does_not_come_is_refused(step: Step, mirror: Mirror) -> None:
    said = refused(step, mirror.base(key_url=f"file://{mirror.folder}/none"))
    assert "the key of the repository test did not come" in said
    assert "test = {key = " in said


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (HttpReply(200, PAGE), "holds no OpenPGP public key"),
        (HttpReply(404), "answers 404"),
        (HttpReply(200, hangs=NEVER), "does not answer (timed out)"),
        (HttpReply(200, b"x" * (1 << 21)), "is longer than"),
    ],
    ids=["a web page", "not found", "silence", "endless"],
)
def test_a_key_server_that_answers_with_something_else_is_refused(
    step: Step, mirror: Mirror, reply: HttpReply, expected: str
) -> None:
    with served(mirror.folder, lambda _: reply) as url:
        said = refused(step, mirror.base(key_url=f"{url}/key"))
    assert expected in said
    assert f"{url}/key" in said


def test_a_package_that_is_not_there_is_named_with_its_base_and_role(step: Step, mirror: Mirror) -> None:
    said = refused(step, mirror.base(), "nowhere")
    assert "there is no package nowhere of centos-stream9, asked for by docker" in said
    assert f"test: file://{mirror.folder}" in said


def test_a_package_that_the_local_repository_lacks_is_named_as_well(step: Step, mirror: Mirror, tmp_path: Path) -> None:
    base = mirror.base()
    fetch.fetch(step, base, ["signed"])
    step.finish()
    with pytest.raises(BuildError, match="there is no package nowhere of centos-stream9, asked for by docker"):
        dnf.install_root(step, base, tmp_path / "root", ["nowhere"])


def test_a_package_with_missing_requirements_is_named(step: Step, mirror: Mirror) -> None:
    assert "nothing provides not-there needed by broken" in refused(step, mirror.base(), "broken")


def test_the_path_of_a_missing_mirror_on_disk_is_named(step: Step, mirror: Mirror) -> None:
    assert "/nowhere/repodata/repomd.xml is not on this machine" in refused(step, mirror.base("file:///nowhere"))


Replies = Callable[[Path], dict[str, HttpReply]]
# By path: what the mirror answers. Then: what the error says.
BAD: dict[str, tuple[Replies, str]] = {
    "a web page": (
        lambda _: {REPOMD: HttpReply(200, PAGE)},
        "with a web page ('Sign in to the network'), not with the meta",
    ),
    "a captive portal": (
        lambda _: {REPOMD: HttpReply(302, headers={"Location": "/login"}), "/login": HttpReply(200, PAGE)},
        "/login, with a web page ('Sign in to the network')",
    ),
    "not found": (lambda _: {REPOMD: HttpReply(404)}, "answers 404 to http://"),
    "server error": (lambda _: {REPOMD: HttpReply(500)}, "answers 500 to http://"),
    "empty": (lambda _: {REPOMD: HttpReply(200)}, "with an empty file"),
    "other XML": (lambda _: {REPOMD: HttpReply(200, b"<?xml version='1.0'?><feed/>")}, 'something else (b"<?xml'),
    "silence": (lambda _: {REPOMD: HttpReply(200, hangs=NEVER)}, "does not answer (timed out)"),
    "another's metadata": (
        lambda folder: {
            REPOMD: HttpReply(200, (folder / "repodata/repomd.xml").read_bytes().replace(b"-primary", b"-x"))
        },
        "Failed to download metadata",
    ),
    "metadata cut short": (
        lambda folder: {REPOMD: HttpReply(200, (folder / "repodata/repomd.xml").read_bytes(), cut=800)},
        "Failed to download metadata",
    ),
    "metadata changed": (
        lambda folder: {
            f"/repodata/{path.name}": HttpReply(200, b"x" * path.stat().st_size) for path in primary(folder)
        },
        "Failed to download metadata",
    ),
    "a package cut short": (
        lambda folder: {"/signed.rpm": HttpReply(200, (folder / "signed.rpm").read_bytes(), cut=900)},
        "signed.rpm",
    ),
    "a package changed": (
        lambda folder: {"/signed.rpm": HttpReply(200, (folder / "signed.rpm").read_bytes()[:-4] + b"xxxx")},
        "signed",
    ),
    "a package that is not there": (lambda _: {"/signed.rpm": HttpReply(404)}, "signed.rpm"),
    "a package that never comes": (lambda _: {"/signed.rpm": HttpReply(200, hangs=NEVER)}, "signed.rpm"),
}


def primary(folder: Path) -> list[Path]:
    return [path for path in (folder / "repodata").iterdir() if "primary.xml" in path.name]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", BAD)
def test_a_mirror_that_answers_with_something_else_is_refused(step: Step, mirror: Mirror, what: str) -> None:
    replies, expected = BAD[what]
    table = replies(mirror.folder)
    with served(mirror.folder, table.get) as url:
        said = refused(step, mirror.base(url))
    assert expected in said
    assert url in said


def test_a_mirror_over_http_serves_as_well_as_one_on_disk(step: Step, mirror: Mirror) -> None:
    with served(mirror.folder, lambda _: None) as url:
        fetch.fetch(step, mirror.base(url), ["signed"])
    step.finish()
    assert (step.build / BASE.repository / "repodata/repomd.xml").exists()

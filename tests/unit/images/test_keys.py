"""Public keys: the expected ones are taken, and a file that holds anything else is refused with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from images.bases import keys
from images.bases.catalogue import debian12_rpm, debian13_rpm, debian_testing_rpm
from images.bases.debian import sources
from images.bases.debian.suite import DebianSuite
from images.engine.errors import BuildError
from tests.testbed.needs import needs
from tests.testbed.packages import SigningKeys, command, gnupg
from tests.testbed.processes import command_line

pytestmark = needs("gpg")

ARMOR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n%s\n-----END PGP PUBLIC KEY BLOCK-----\n"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningKeys]:
    with gnupg(tmp_path_factory.mktemp("g")) as found:
        yield found


@pytest.fixture(scope="module")
def good(ring: SigningKeys) -> str:
    return ring.make("good")


@pytest.fixture(scope="module")
def other(ring: SigningKeys) -> str:
    return ring.make("other")


def test_the_expected_key_is_taken(ring: SigningKeys, good: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(keys.trusted(ring.public(good), {good}, "a file"))
    listed = command("gpg", "--homedir", ring.home, "--with-colons", "--show-keys", tmp_path / "key")
    assert [line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr")] == [good]


def test_a_binary_key_file_is_taken_as_well(ring: SigningKeys, good: str, tmp_path: Path) -> None:
    ring.gpg("--output", tmp_path / "key", "--export", good)
    assert keys.trusted((tmp_path / "key").read_bytes(), {good}, "a file").startswith(b"-----BEGIN PGP PUBLIC")


def test_another_key_is_refused_and_both_are_named(ring: SigningKeys, good: str, other: str) -> None:
    with pytest.raises(BuildError, match=f"a file holds the key {other}; expected is {good}"):
        keys.trusted(ring.public(other), {good}, "a file")


@pytest.mark.parametrize("joined", [True, False], ids=["in one block", "in a second block"])
def test_a_key_behind_the_expected_one_is_refused(ring: SigningKeys, good: str, other: str, joined: bool) -> None:
    content = ring.public(good, other) if joined else ring.public(good) + ring.public(other)
    with pytest.raises(BuildError, match=f"holds the key {other}"):
        keys.trusted(content, {good}, "a file")


def test_all_expected_keys_must_be_there(ring: SigningKeys, good: str, other: str) -> None:
    assert keys.trusted(ring.public(good, other), {good, other}, "a file")
    with pytest.raises(BuildError, match=f"does not hold the key {other}"):
        keys.trusted(ring.public(good), {good, other}, "a file")


def test_a_key_that_expired_is_refused(ring: SigningKeys) -> None:
    old = ring.make("old", expires="1d", when="20200101T000000")
    with pytest.raises(BuildError, match=f"{old} has expired"):
        keys.trusted(ring.public(old), {old}, "a file")


def test_a_key_that_was_revoked_is_refused(ring: SigningKeys) -> None:
    gone = ring.make("gone")
    revocation = ring.home / f"openpgp-revocs.d/{gone}.rev"
    revocation.write_text(revocation.read_text().replace(":-----BEGIN", "-----BEGIN"))
    ring.gpg("--import", revocation)
    with pytest.raises(BuildError, match=f"{gone} is revoked"):
        keys.trusted(ring.public(gone), {gone}, "a file")


def test_a_key_that_cannot_sign_is_refused_unless_a_subkey_can(ring: SigningKeys) -> None:
    name = ring.make("subkey", usage="cert")
    with pytest.raises(BuildError, match=f"{name} cannot sign"):
        keys.trusted(ring.public(name), {name}, "a file")
    ring.gpg("--quick-add-key", name, "rsa2048", "sign")
    assert keys.trusted(ring.public(name), {name}, "a file")


def test_a_secret_key_is_refused(ring: SigningKeys, good: str) -> None:
    secret = ring.gpg("--armor", "--export-secret-keys", good).encode()
    with pytest.raises(BuildError, match="holds a secret key"):
        keys.trusted(secret, {good}, "a file")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", ARMOR % b"", ARMOR % b"mP8E", ARMOR % b"iAIEAA==", b"\x99\x01"],
    ids=["empty", "a web page", "an empty block", "cut short", "a signature", "two bytes"],
)
def test_what_is_no_key_is_refused(content: bytes) -> None:
    with pytest.raises(BuildError, match="a file holds no OpenPGP public key"):
        keys.trusted(content, {"0" * 40}, "a file")


def test_no_agent_is_started(ring: SigningKeys, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = ring.public(good)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    keys.trusted(content, {good}, "a file")
    assert not [path for path in Path("/proc").glob("[0-9]*") if str(tmp_path) in command_line(path.name)]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sources.KEYRING.exists(), reason="needs debian-archive-keyring")
@pytest.mark.parametrize("suite", [debian12_rpm.SUITE, debian13_rpm.SUITE, debian_testing_rpm.SUITE])
def test_debians_keys_are_in_this_machines_keyring(suite: DebianSuite) -> None:
    assert sources.keyring(suite).startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_a_keyring_without_the_expected_keys_is_refused(
    ring: SigningKeys, good: str, other: str, tmp_path: Path
) -> None:
    (tmp_path / "ring").write_bytes(ring.public(good))
    assert keys.picked(tmp_path / "ring", [good])
    with pytest.raises(BuildError, match=f"ring does not hold the key {other}"):
        keys.picked(tmp_path / "ring", [good, other])

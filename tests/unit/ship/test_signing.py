"""Signatures by a real gpg and a throw-away key, and the yum repository that carries them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import signing
from images.engine.errors import BuildError
from images.ship import yum
from images.signing import SigningKey
from tests.testbed.agents import agents
from tests.testbed.needs import needs
from tests.testbed.polling import eventually

pytestmark = needs("gpg", "rpmbuild", "rpmsign", "createrepo_c")
EPOCH = 1_700_000_000
_SPEC = """\
Name: thing
Version: 1
Release: 1
Summary: a package of the test
License: Apache-2.0
BuildArch: noarch
%description
A package of the test.
%files
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningKey]:
    home = tmp_path_factory.mktemp("keys") / "home"
    yield signing.generate(home, "overlayd test <test@example.com>")
    eventually("no agent is left", lambda: not agents(home))


@pytest.fixture(scope="module")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rpm")
    (folder / "thing.spec").write_text(_SPEC)
    command = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {folder}", str(folder / "thing.spec")]
    subprocess.run(command, check=True, capture_output=True)
    [found] = folder.rglob("*.rpm")
    return found


def test_a_signature_is_good_by_the_public_key_alone_and_bad_when_the_file_changed(
    tmp_path: Path, key: SigningKey
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    [signature] = signing.sign_detached(key, file)
    public = signing.export_public(key)
    assert signature == tmp_path / "file.asc"
    signing.verify(file, signature, public)
    file.write_bytes(b"other")
    with pytest.raises(BuildError, match="do not match"):
        signing.verify(file, signature, public)


def test_a_signature_by_another_key_is_refused(tmp_path: Path, key: SigningKey) -> None:
    other = signing.generate(tmp_path / "other", "another <another@example.com>")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    [signature] = signing.sign_detached(other, file)
    with pytest.raises(BuildError, match="do not match"):
        signing.verify(file, signature, signing.export_public(key))


@pytest.mark.parametrize("wanted", ["fingerprint", "address", None])
def test_a_key_is_found_by_fingerprint_by_user_id_and_as_the_only_one(key: SigningKey, wanted: str | None) -> None:
    asked = {"fingerprint": key.fingerprint, "address": "test@example.com"}.get(wanted or "")
    assert signing.find(asked, home=key.home) == key


def test_a_key_that_is_not_there_is_an_error_that_names_those_that_are(key: SigningKey) -> None:
    with pytest.raises(BuildError, match=rf"no secret key 'nobody' in {key.home}\n.*there are:\n.*{key.fingerprint}"):
        signing.find("nobody", home=key.home)


def test_a_home_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"no GnuPG home {tmp_path}/none"):
        signing.find(None, home=tmp_path / "none")


def test_two_keys_are_not_chosen_from(tmp_path: Path) -> None:
    first = signing.generate(tmp_path / "home", "one <one@example.com>")
    command = ["gpg", "--homedir", str(tmp_path / "home"), "--batch", "--passphrase", "", "--quick-generate-key"]
    subprocess.run([*command, "two <two@example.com>", "rsa2048", "sign", "never"], check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", tmp_path / "home", "--kill", "gpg-agent"], check=True)
    with pytest.raises(BuildError, match="2 secret keys"):
        signing.find(None, home=tmp_path / "home")
    assert signing.find("one@example.com", home=tmp_path / "home") == first


def test_a_revoked_or_expired_key_signs_nothing(tmp_path: Path) -> None:
    key = signing.generate(tmp_path / "home", "old <old@example.com>")
    command = ["gpg", "--homedir", str(tmp_path / "home"), "--batch", "--faked-system-time", "20200101T000000"]
    command += ["--passphrase", "", "--quick-generate-key", "past <past@example.com>", "rsa2048", "sign", "1d"]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", tmp_path / "home", "--kill", "gpg-agent"], check=True)
    with pytest.raises(BuildError, match="has expired"):
        signing.find("past@example.com", home=key.home)


def test_a_key_whose_passphrase_nobody_can_type_is_known_before_long_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("GPG_TTY", "DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    command = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", "secret"]
    command += ["--quick-generate-key", "locked <locked@example.com>", "rsa2048", "sign", "never"]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)
    with pytest.raises(BuildError, match="does not sign"):
        signing.prove(signing.find(None, home=home))
    eventually("no agent is left", lambda: not agents(home))


def test_no_agent_is_left_and_one_that_ran_before_goes_on(tmp_path: Path, key: SigningKey) -> None:
    assert key.home is not None
    file = tmp_path / "file"
    file.write_bytes(b"content")
    signing.sign_detached(key, file)
    eventually("no agent is left", lambda: not agents(key.home))
    with signing.agent(key):
        signing.sign_detached(key, file)
        eventually("one agent is there", lambda: len(agents(key.home)) == 1)
    eventually("no agent is left", lambda: not agents(key.home))


def test_a_home_with_a_path_too_long_for_a_socket_works_too(tmp_path: Path) -> None:
    key = signing.generate(tmp_path / ("long" * 25) / "home", "deep <deep@example.com>")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    [signature] = signing.sign_detached(key, file)
    signing.verify(file, signature, signing.export_public(key))
    file.write_bytes(b"other content")
    with pytest.raises(BuildError, match="do not match"):
        signing.verify(file, signature, signing.export_public(key))


def test_a_repository_is_signed_in_all_its_parts_and_the_rpm_it_was_made_of_is_not(
    tmp_path: Path, key: SigningKey, rpm: Path
) -> None:
    before = rpm.read_bytes()
    yum.make([rpm], tmp_path / "yum", epoch=EPOCH, key=key, baseurl="http://198.18.0.1/yum")
    assert rpm.read_bytes() == before
    public = (tmp_path / "yum" / yum.KEY_FILE).read_bytes()
    repomd = tmp_path / "yum/repodata/repomd.xml"
    signing.verify(repomd, repomd.with_name("repomd.xml.asc"), public)
    # A database with this key alone: a package without a good signature of it does not verify.
    database = ["--define", f"_dbpath {tmp_path}/db", "--define", "_pkgverify_level signature"]
    subprocess.run(["rpmkeys", *database, "--import", tmp_path / "yum" / yum.KEY_FILE], check=True)
    good = subprocess.run(["rpmkeys", *database, "--checksig", tmp_path / "yum" / rpm.name], check=False)
    bad = subprocess.run(["rpmkeys", *database, "--checksig", rpm], check=False, capture_output=True)
    assert good.returncode == 0
    assert bad.returncode != 0
    text = (tmp_path / "yum" / yum.REPO_FILE).read_text()
    assert "baseurl=http://198.18.0.1/yum\n" in text
    assert "gpgcheck=1\nrepo_gpgcheck=1\n" in text


def test_an_unsigned_repository_is_the_same_bytes_twice(tmp_path: Path, rpm: Path) -> None:
    contents = []
    for name in ("one", "two"):
        yum.make([rpm], tmp_path / name, epoch=EPOCH, key=None, baseurl=yum.BASEURL)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert contents[0] == contents[1]
    assert yum.KEY_FILE not in contents[0]


@pytest.mark.parametrize("given", ["", "repository", "ssh://x/y", "http://x/a b", "http://x\nenabled=0"])
def test_a_baseurl_that_yum_could_not_read_is_refused(given: str) -> None:
    with pytest.raises(BuildError, match="allowed: http, https, ftp and file"):
        yum.checked(given)

"""etcd-setup on real etcds: users with the fewest rights, whatever was there before."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcd_container import passwords, rights
from etcd_container.ctl import Login
from overlayd.settings import load, read_file
from overlayd.store.client import Store
from tests.testbed.certificates import Authority
from tests.testbed.etcd import Etcd
from tests.unit.images.etcd_setup import COMMAND, PREFIX, USERS, allowed, ctl, login, set_up, setup, spy


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """One that asks nobody for a login."""
    found = Etcd(tmp_path)
    found.start()
    yield found
    found.stop()


def test_a_host_may_read_the_config_and_write_leases_and_presence_and_no_more(etcd: Etcd, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    set_up(etcd, folder)
    host, admin = login(folder, "overlayd"), login(folder, "overlayd-admin")
    table = {
        # words: anybody, a host, the administrator
        ("get", f"{PREFIX}/config"): (False, True, True),
        ("put", f"{PREFIX}/config", "{}"): (False, False, True),
        ("put", f"{PREFIX}/subnets/10.42.1.0-24", "{}"): (False, True, True),
        ("get", "--prefix", f"{PREFIX}/subnets/"): (False, True, True),
        ("put", f"{PREFIX}/hosts/198.18.0.1", "{}"): (False, True, False),
        ("get", "--prefix", f"{PREFIX}/hosts/"): (False, True, True),
        ("get", "--prefix", f"{PREFIX}/"): (False, False, False),
        ("get", f"{PREFIX}/configs"): (False, False, False),
        ("put", f"{PREFIX}/other", "x"): (False, False, False),
        ("put", f"{PREFIX}/subnets", "x"): (False, False, False),
        ("put", f"{PREFIX}/subnets0", "x"): (False, False, False),
        ("get", "/other"): (False, False, False),
        ("user", "list"): (False, False, False),
        ("role", "grant-permission", "overlayd", "readwrite", "/"): (False, False, False),
        ("auth", "disable"): (False, False, False),
        ("snapshot", "save", str(tmp_path / "snapshot")): (False, False, False),
    }
    found = {words: tuple(allowed(etcd, who, *words) for who in (None, host, admin)) for words in table}
    assert found == table


def test_secrets_are_for_root_only_and_on_no_command_line_and_in_no_log(etcd: Etcd, tmp_path: Path) -> None:
    folder, path = tmp_path / "secrets", spy(tmp_path / "spy")
    os.umask(0o022)
    done = setup(f"--endpoints={etcd.endpoints[0]}", folder, path=path)
    files = [passwords.file_of(folder, user) for user in USERS]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    shown = done.stdout + done.stderr + (path / "words").read_text() + etcd.members[0].log_text()
    assert "user add root --interactive=false" in shown
    assert not [file for file in files if file.read_text().strip() in shown]
    assert "password" not in repr(Login("root", "password")).replace("etcd-password", "")


def test_the_last_lines_are_settings_with_which_a_host_is_let_in(etcd: Etcd, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    said = set_up(etcd, folder, "--prefix=/net/blue", "--user=blue")
    lines = said.split("sysconfig/overlayd of each host:\n")[1].split()
    file = tmp_path / "overlayd"
    file.write_text("\n".join(lines).replace("/etc/overlayd/", f"{folder}/blue/") + "\n")
    assert read_file(file)
    settings = load({}, {}, file)
    assert settings.etcd_prefix == "/net/blue"
    store = Store.of(settings)
    assert store.list_prefix("/net/blue/subnets/")[0] == []
    store.close()
    assert "without TLS" in said


def test_again_it_changes_nothing_and_a_password_that_etcd_lost_is_set_anew(etcd: Etcd, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first = set_up(etcd, folder)
    before = {file: file.read_text() for file in folder.rglob("etcd-password")}
    assert set_up(etcd, folder) == "\n" + first.split("\n\n", 1)[1]
    passwords.file_of(folder, "overlayd").write_text("another\n")
    assert "user overlayd has the password of its file" in set_up(etcd, folder)
    assert allowed(etcd, Login("overlayd", "another"), "get", f"{PREFIX}/config")
    assert [file.name for file in folder.rglob("*") if file.name.endswith(".half")] == []
    assert len(before) == 3


def test_rights_that_are_too_many_or_too_few_become_those_that_are_wanted(etcd: Etcd, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    set_up(etcd, folder)
    root = login(folder, "root")
    run = ctl(etcd).run
    run("role", "grant-permission", "--prefix=true", "overlayd", "readwrite", PREFIX, login=root)
    run("role", "grant-permission", "overlayd", "readwrite", f"{PREFIX}/config", login=root)
    run("role", "revoke-permission", "--prefix=true", "overlayd", f"{PREFIX}/hosts/", login=root)
    run("user", "grant-role", "overlayd", "root", login=root)
    set_up(etcd, folder)
    assert set(rights.granted(ctl(etcd).document("role", "get", "overlayd", login=root))) == set(
        rights.of(PREFIX)["overlayd"]
    )
    assert ctl(etcd).document("user", "get", "overlayd", login=root)["roles"] == ["overlayd"]


def refused(etcd: Etcd, folder: Path, *words: object) -> str:
    """What it says when it refuses; nothing in etcd is another then."""
    done = setup(f"--endpoints={etcd.endpoints[0]}", *words, folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr


def test_an_etcd_with_others_keys_is_not_locked_without_a_word(etcd: Etcd, tmp_path: Path) -> None:
    etcd.ctl("put", f"{PREFIX}/config", "{}")
    for key in ("/registry/pods", "/a", f"{PREFIX}-2/config"):
        etcd.ctl("put", key, "x")
        said = refused(etcd, tmp_path / "secrets")
        assert f"others keep keys in this etcd, as '{key}'" in said
        assert "--switch-on" in said
        etcd.ctl("del", key)
    etcd.ctl("put", "/registry/pods", "x")
    assert allowed(etcd, None, "get", "/")
    set_up(etcd, tmp_path / "secrets", "--switch-on")
    assert not allowed(etcd, None, "get", "/")


def test_users_of_others_keep_their_passwords(etcd: Etcd, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    etcd.ctl("user", "add", "root:theirs")
    assert "etcd has a user root already, and there is no" in refused(etcd, folder)
    # With authentication on, and root's password unknown, wrong, and at last there.
    etcd.enable_auth_of("root", "theirs")
    assert "etcd asks for a login, and there is no" in refused(etcd, folder)
    file = passwords.file_of(folder, "root")
    file.parent.mkdir()
    file.write_text("wrong\n")
    said = refused(etcd, folder)
    assert "does not let root in with the password in" in said
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("theirs\n")
    set_up(etcd, folder)
    assert allowed(etcd, Login("root", "theirs"), "user", "list")
    # One whose password was lost here is not given a new one behind the back of the hosts that use it.
    passwords.file_of(folder, "overlayd").unlink()
    assert "etcd has a user overlayd, and its password is not in" in refused(etcd, folder)


def test_two_networks_in_one_etcd_have_a_user_each(etcd: Etcd, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    set_up(etcd, folder)
    said = refused(etcd, folder, "--prefix=/second")
    assert "the role overlayd may read '/coreos.com/network/config' too" in said
    set_up(etcd, folder, "--prefix=/second", "--user=second")
    first, second = login(folder, "overlayd"), login(folder, "second")
    assert [allowed(etcd, who, "get", f"{PREFIX}/config") for who in (first, second)] == [True, False]
    assert [allowed(etcd, who, "get", "/second/config") for who in (first, second)] == [False, True]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "say where etcd is, by one of --offline and --endpoints"),
        (["--offline", "--endpoints=http://127.0.0.1:1"], "say where etcd is, by one of"),
        (["--endpoints=http://127.0.0.1:1", "--prefix=net"], "--prefix is 'net'"),
        (["--endpoints=http://127.0.0.1:1", "--prefix=/net/"], "--prefix is '/net/'"),
        (["--endpoints=http://127.0.0.1:1", "--user=root"], "--user is 'root'"),
        (["--endpoints=http://127.0.0.1:1", "--user=../x"], "--user is '../x'"),
    ],
)
def test_wrong_words_are_named(words: list[str], what: str, tmp_path: Path) -> None:
    done = setup(*words, tmp_path / "secrets")
    assert (done.returncode, what in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "secrets").exists()


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "x" * 73, "a\nb\n", b"\xff\xfe"])
def test_a_file_that_is_no_password_is_refused_without_its_content(
    etcd: Etcd, tmp_path: Path, text: str | bytes
) -> None:
    file = passwords.file_of(tmp_path / "secrets", "overlayd")
    file.parent.mkdir(parents=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(etcd, tmp_path / "secrets")
    assert f"{file} is no " in said
    assert not re.search(r"two words|xxx|\\xff", said)


def test_a_folder_that_others_write_into_or_lead_elsewhere_is_refused(etcd: Etcd, tmp_path: Path) -> None:
    folder, other = tmp_path / "secrets", tmp_path / "other"
    folder.mkdir()
    folder.chmod(0o777)
    assert "everybody may write into" in refused(etcd, folder)
    folder.chmod(0o755)
    other.mkdir()
    (folder / "overlayd").symlink_to(other)
    assert f"{folder}/overlayd is a link" in refused(etcd, folder)
    (folder / "overlayd").unlink()
    file = other / "file"
    file.write_text("secret\n")
    file.chmod(0o644)
    (folder / "root").mkdir()
    (folder / "root/etcd-password").symlink_to(file)
    assert "cannot be read" in refused(etcd, folder)
    assert file.stat().st_mode & 0o777 == 0o644


def test_what_etcd_says_is_no_command_to_a_terminal(etcd: Etcd, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    set_up(etcd, folder)
    root = login(folder, "root")
    ctl(etcd).run("role", "grant-permission", "overlayd", "read", f"{PREFIX}/\x1b[31m\n", login=root)
    assert "may no longer read /coreos.com/network/?[31m?" in set_up(etcd, folder)


def test_two_at_a_time_are_one(etcd: Etcd, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        assert "another etcd-setup works in" in refused(etcd, folder)
    finally:
        os.close(held)
    set_up(etcd, folder)


def test_with_tls_the_host_folder_has_the_ca(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    etcd = Etcd(tmp_path, certificates=[authority.issue("etcd", "IP:127.0.0.1")], authority=authority.certificate)
    etcd.start()
    try:
        said = set_up(etcd, tmp_path / "secrets", f"--cacert={authority.certificate}")
    finally:
        etcd.stop()
    assert (tmp_path / "secrets/overlayd/ca.pem").read_bytes() == authority.certificate.read_bytes()
    assert "OVERLAYD_ETCD_CAFILE=/etc/overlayd/ca.pem" in said
    assert "without TLS" not in said


def test_the_readme_has_the_rights_that_are_given() -> None:
    readme = (COMMAND.parents[3] / "README.md").read_text()
    for role, given in rights.of(PREFIX).items():
        words = {
            kind: ", ".join(f"`{one.key.removeprefix(PREFIX)[1:]}`" for one in given if kind in one.kind)
            for kind in ("read", "write")
        }
        assert f"| `{role}` | {words['read']} | {words['write']} |\n" in readme

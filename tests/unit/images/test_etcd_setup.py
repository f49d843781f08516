"""etcd-setup on real etcds: users with the fewest rights, whatever was there before, and whenever it is killed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import pytest

from etcd_container import data as data_of
from etcd_container import passwords, rights
from etcd_container.ctl import Ctl, Failed, Login
from overlayd.daemon import store_settings
from overlayd.settings import load, read_file
from overlayd.store.client import Store
from tests.certificates import Authority
from tests.etcd import Etcd
from tests.polling import eventually

COMMAND = Path(__file__).parents[3] / "images/etcd/files/usr/bin/etcd-setup"
PREFIX = "/coreos.com/network"
USERS = ("root", "overlayd", "overlayd-admin")
# Runs etcdctl, writes its words down, and kills whoever called it: before or after the call of a number.
SPY = """#!/bin/sh
echo "$*" >>{folder}/words
calls=$(wc -l <{folder}/words)
[ "{when}$calls" != "before{number}" ] || {{ kill -KILL $PPID; exit 1; }}
{etcdctl} "$@"
status=$?
[ "{when}$calls" != "after{number}" ] || kill -KILL $PPID
exit $status
"""


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """One that asks nobody for a login."""
    found = Etcd(tmp_path)
    found.start()
    yield found
    found.stop()


def setup(
    *words: object, path: Path | None = None, variables: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """The command, as a process; programs are looked for in `path` first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ETCD_", "ETCDCTL_"))}
    environment.update(variables)
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        [sys.executable, "-IB", COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )


def set_up(etcd: Etcd, folder: Path, *words: object) -> str:
    done = setup(f"--endpoints={etcd.endpoints[0]}", *words, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ctl(etcd: Etcd) -> Ctl:
    return Ctl({"ETCDCTL_ENDPOINTS": etcd.endpoints[0]})


def login(folder: Path, user: str) -> Login:
    password = passwords.read(passwords.file_of(folder, user))
    assert password is not None
    return Login(user, password)


def allowed(etcd: Etcd, who: Login | None, *words: str) -> bool:
    try:
        ctl(etcd).run(*words, login=who)
    except Failed as error:
        if "permission denied" in str(error) or "user name is empty" in str(error):
            return False
        raise
    return True


def spy(folder: Path, when: str = "never", number: int = 0) -> Path:
    """A folder with an etcdctl that tells what it was told, and that kills."""
    folder.mkdir(parents=True)
    file = folder / "etcdctl"
    file.write_text(SPY.format(folder=folder, etcdctl=shutil.which("etcdctl"), when=when, number=number))
    file.chmod(0o755)
    return folder


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
    store = Store(store_settings(settings))
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


def completed_after_kill(tmp_path: Path, when: str, number: int) -> bool:
    """Whether the command was killed at all; then it was run again, and is seen to have completed what it began."""
    folder = tmp_path / "secrets"
    etcd = Etcd(tmp_path)
    etcd.start()
    try:
        first = setup(f"--endpoints={etcd.endpoints[0]}", folder, path=spy(tmp_path / "spy", when, number))
        if first.returncode == 0:
            return False
        assert first.returncode == -signal.SIGKILL, first.stderr
        if ctl(etcd).asks_for_login():
            assert all(allowed(etcd, login(folder, user), "get", f"{PREFIX}/config") for user in USERS)
        set_up(etcd, folder)
        assert all(allowed(etcd, login(folder, user), "get", f"{PREFIX}/config") for user in USERS)
        assert not allowed(etcd, None, "get", "/")
    finally:
        etcd.stop()
    return True


@pytest.mark.parametrize(
    ("when", "numbers"),
    [
        # Before and after root has a password, the last grant, and the switch.
        ("before", (7, 10, 23)),
        ("after", (7, 22, 23)),
        pytest.param("before", range(1, 26), marks=pytest.mark.slow),
        pytest.param("after", range(1, 26), marks=pytest.mark.slow),
    ],
    ids=["before", "after", "before any", "after any"],
)
def test_killed_at_any_step_the_next_run_completes_it_and_root_can_always_log_in(
    tmp_path_factory: pytest.TempPathFactory, when: str, numbers: Sequence[int]
) -> None:
    # Each turn begins with an etcd that is empty, and most of it is waiting.
    folders = [tmp_path_factory.mktemp("killed") for _ in numbers]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda folder, number: completed_after_kill(folder, when, number), folders, numbers))
    # None was left out, and the last one of all is behind the end.
    assert found.count(False) <= 1, found
    assert all(found[:-1]), found


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


def test_an_etcd_that_is_not_started_yet_asks_for_a_login_from_its_first_second(tmp_path: Path) -> None:
    folder, data = tmp_path / "secrets", tmp_path / "m0.etcd"
    words = ("--offline", folder)
    variables = {"ETCD_DATA_DIR": str(data), "ETCD_NAME": "m0"}
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    done = setup(*words, variables=variables)
    assert done.returncode == 0, done.stderr
    etcd = Etcd(tmp_path)
    etcd.log_in(*login(folder, "root"))
    etcd.start()
    try:
        assert not allowed(etcd, None, "get", "/")
        assert allowed(etcd, login(folder, "overlayd"), "get", f"{PREFIX}/config")
        # While it runs, its data is nobody else's; what was made is known all the same.
        again = setup(*words, variables=variables)
        assert (again.returncode, "has its users since" in again.stdout) == (0, True), again.stderr
        other = setup(*words, "--prefix=/second", "--user=second", variables=variables)
        assert (other.returncode, "another etcd uses" in other.stderr) == (2, True)
    finally:
        etcd.stop()
    again = setup(*words, variables=variables)
    assert (again.returncode, "made" in again.stdout) == (0, False), again.stderr


@pytest.mark.parametrize("number", [4, 9, 22])
def test_killed_before_etcd_is_started_its_own_etcd_ends_and_the_next_run_completes_it(
    tmp_path: Path, number: int
) -> None:
    folder, data = tmp_path / "secrets", tmp_path / "m0.etcd"
    variables = {"ETCD_DATA_DIR": str(data), "ETCD_NAME": "m0"}
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    killed = setup("--offline", folder, path=spy(tmp_path / "spy", "after", number), variables=variables)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    eventually("the etcd that it started ends", lambda: not data_of.locked(data))
    again = setup("--offline", folder, variables=variables)
    assert again.returncode == 0, again.stderr
    etcd = Etcd(tmp_path)
    etcd.log_in(*login(folder, "root"))
    etcd.start()
    try:
        assert not allowed(etcd, None, "get", "/")
        assert all(allowed(etcd, login(folder, user), "get", f"{PREFIX}/config") for user in USERS)
    finally:
        etcd.stop()


def test_where_etcd_cannot_be_started_its_own_words_are_told(tmp_path: Path) -> None:
    folder, data = tmp_path / "secrets", tmp_path / "data"
    data.mkdir()
    done = setup("--offline", folder, variables={"ETCD_DATA_DIR": str(data), "ETCD_QUOTA_BACKEND_BYTES": "none"})
    assert done.returncode == 2
    assert "etcd ended with status" in done.stderr
    several = "a=http://127.0.0.1:1,b=http://127.0.0.1:2"
    variables = {"ETCD_DATA_DIR": str(data), "ETCD_NAME": "a", "ETCD_INITIAL_CLUSTER": several}
    done = setup("--offline", folder, variables=variables)
    assert (done.returncode, "the cluster has several members" in done.stderr) == (2, True), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="keys are given their owners")
def test_certificates_that_a_kill_left_half_made_are_completed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    command = COMMAND.with_name("etcd-certificates")

    def make(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", command, folder, *words], capture_output=True, text=True, check=False)

    # As a volume of the member's own, which is there and empty.
    (folder / "etcd").mkdir(parents=True)
    assert make("etcd=IP:127.0.0.1", "host1").returncode == 0
    authority = (folder / "ca.pem").read_text()
    for file in ("etcd/cert.pem", "host1/cert.pem"):
        (folder / file).unlink()
    (folder / "host1/key.pem.half").write_text("half")
    assert make("etcd=IP:127.0.0.1", "host1").returncode == 0
    assert (folder / "ca.pem").read_text() == authority
    assert sorted(file.name for file in (folder / "host1").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert {file.stat().st_mode & 0o777 for file in (folder / "ca.key", folder / "host1/key.pem")} == {0o600}
    assert (folder / "etcd/key.pem").stat().st_mode & 0o777 == 0o640
    other = make("etcd=IP:127.0.0.2")
    assert (other.returncode, "is not for IP:127.0.0.2: remove it" in other.stderr) == (2, True)
    assert make("root").returncode == make("root=IP:127.0.0.1").returncode == 2


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

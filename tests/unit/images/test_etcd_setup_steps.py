"""etcd-setup killed at any step, on an etcd that runs and on one that does not yet; and certificates half made."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from etcd_container import data as data_of
from tests.testbed.etcd import Etcd
from tests.testbed.polling import eventually
from tests.unit.images.etcd_setup import COMMAND, PREFIX, USERS, allowed, ctl, login, set_up, setup, spy


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

"""One daemon runs for each network of a host; neither commands that look nor a local user keep it from starting."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd.errors import BusyError, ConfigError, OverlaydError
from overlayd.lib import hostlock
from overlayd.monitoring import status_file
from tests.kernel.test_local_user import for_everybody
from tests.testbed.netns import interpreter
from tests.testbed.netns.lab import Host, Lab, environment, laboratory
from tests.testbed.polling import eventually

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
_INO = Path("/proc/self/ns/net")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A host."""
    with for_everybody() as folder, laboratory(folder, {"Type": "vxlan"}) as lab:
        lab.host("a")
        yield lab


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lock's functions in this process, with a folder of the test's own."""
    monkeypatch.setattr(hostlock, "FOLDER", tmp_path)
    return tmp_path / f"{_INO.stat().st_ino}.lock"


def lock_of(host: Host) -> Path:
    """A host's lock."""
    (_network, inode) = host.run("readlink", str(_INO)).strip().rstrip("]").split(":[")
    return hostlock.FOLDER / f"{inode}.lock"


def as_nobody(host: Host, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a host as an ordinary user."""
    words = [*host.enter, *NOBODY, *argv]
    return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=30, check=False)


def test_a_local_user_cannot_hold_the_lock_and_keep_the_daemon_down(a: Host) -> None:
    path = lock_of(a)
    for held in (path, a.run_dir / "lock"):
        assert as_nobody(a, "flock", "--nonblock", str(held), "true").returncode != 0, held
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, 0)
    a.stop()
    assert not path.exists()
    # Nor can the user make a file in the lock's place: the user cannot write in its folder.
    assert as_nobody(a, "touch", str(path)).returncode != 0
    # The lock file of older versions does not matter, whoever holds it.
    with locked(a.run_dir / "lock"):
        a.start()
    (a.run_dir / "lock").unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """An ordinary user locks a file that everybody can read."""
    path.touch(mode=0o644)
    argv = [*NOBODY, "flock", str(path), *interpreter.for_everybody(), "-c", "input()"]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE)
    try:
        eventually("it is held", lambda: subprocess.run(["flock", "-n", path, "true"], check=False).returncode)
        yield
    finally:
        child.communicate(b"\n", timeout=10)


def test_an_ordinary_user_sees_whether_the_daemon_runs(a: Host) -> None:
    argv = [*interpreter.for_everybody(), "-m", "overlayd", "status", f"--run-dir={a.run_dir}"]
    argv.append(f"--config-file={os.devnull}")
    eventually("it is seen to run", lambda: "is ready" in as_nobody(a, *argv).stdout)
    daemon = a.status()["pid"]
    a.stop(signal.SIGKILL)
    said = as_nobody(a, *argv)
    assert "is dead" in said.stdout, said
    # By now another process may have the process id.
    document = (a.run_dir / "status.json").read_text()
    (a.run_dir / "status.json").write_text(document.replace(f'"pid": {daemon}', f'"pid": {os.getpid()}'))
    assert "is dead" in as_nobody(a, *argv).stdout
    a.start()


def test_with_hidepid_an_ordinary_user_still_sees_that_the_daemon_runs(a: Host) -> None:
    hidden = 'mount -t proc -o hidepid=2 proc /proc && exec "$0" "$@"'
    argv = [*interpreter.for_everybody(), "-m", "overlayd", "status", f"--run-dir={a.run_dir}"]
    argv.append(f"--config-file={os.devnull}")

    def said() -> str:
        words = [*a.enter, "unshare", "--mount", "sh", "-c", hidden, *NOBODY, *argv]
        return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=30, check=False).stdout

    eventually("it is seen to run", lambda: "is ready" in said())
    a.stop(signal.SIGKILL)
    assert "is dead" in said()
    a.start()


def test_a_second_daemon_is_refused_whatever_its_run_dir(a: Host, tmp_path: Path) -> None:
    before = a.run("iptables-save")
    second = subprocess.run(
        [*a.overlayd("run"), f"--run-dir={tmp_path}/run", f"--state-dir={tmp_path}/state"],
        capture_output=True,
        text=True,
        env=a.environment(),
        timeout=60,
        check=False,
    )
    assert second.returncode == BusyError.exit_status, second
    assert "another overlayd runs on this host" in second.stderr
    assert not (tmp_path / "run").exists()
    # Nor may `cleanup` remove what the running daemon made.
    done = a.call("cleanup", f"--run-dir={tmp_path}/run")
    assert done.returncode == BusyError.exit_status, done
    assert a.run("iptables-save").count("\n-A") == before.count("\n-A")


def test_commands_that_read_the_state_never_keep_a_daemon_from_starting(a: Host, here: Path) -> None:
    a.stop()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            status_file.runs(a.run_dir)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(500):
            with hostlock.hold(wait_s=0):
                assert here.exists()
    finally:
        stop.set()
        looker.join()
    a.start()


def test_a_start_waits_for_the_one_before_to_end(here: Path) -> None:
    released = threading.Event()

    def first() -> None:
        with hostlock.hold():
            released.wait(1)

    thread = threading.Thread(target=first)
    thread.start()
    eventually("it is held", here.exists)
    begun = time.monotonic()
    with pytest.raises(BusyError, match="systemctl stop overlayd"), hostlock.hold(wait_s=0.2):
        pass
    assert time.monotonic() - begun >= 0.2
    with hostlock.hold():
        assert here.exists()
    thread.join()
    assert not here.exists()


@pytest.mark.parametrize("kind", ["owner", "mode", "link", "dangling", "pipe"])
def test_a_file_in_the_locks_place_that_is_not_ours_is_replaced(here: Path, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    if kind == "pipe":
        os.mkfifo(here, 0o666)
    elif kind in ("link", "dangling"):
        here.symlink_to(victim if kind == "link" else tmp_path / "nowhere")
    else:
        here.touch(mode=0o600)
        os.chown(here, 65534, 65534) if kind == "owner" else here.chmod(0o644)
        # Somebody who could open the file still locks it, but that file has no name any more.
        descriptor = os.open(here, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    with hostlock.hold(wait_s=1):
        found = here.lstat()
        assert (found.st_mode & 0o177777, found.st_uid) == (0o100600, 0)
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("whole", 0o644)
    assert not (tmp_path / "nowhere").exists()


def test_a_full_run_directory_ends_the_daemon_so_that_systemd_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2,mode=755", "tmpfs", folder], check=True)
    try:
        (folder / "filled").touch()
        monkeypatch.setattr(hostlock, "FOLDER", folder)
        with pytest.raises(OverlaydError, match="No space left") as caught, hostlock.hold(wait_s=0):
            pass
        # With exit status 1 systemd starts the daemon again.
        assert caught.value.exit_status == 1
        (folder / "filled").unlink()
        with hostlock.hold(wait_s=0):
            pass
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_folder_where_others_may_write_is_refused_for_the_lock(here: Path) -> None:
    here.parent.chmod(0o1777)
    with pytest.raises(ConfigError, match="others than root may write"), hostlock.hold(wait_s=0):
        pass

"""An ordinary user of a host cannot stop overlayd, read a secret, or make root do something for them."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlayd.errors import PrivilegeError
from tests.testbed.netns import interpreter
from tests.testbed.netns.lab import Host, Lab, environment, laboratory
from tests.testbed.polling import eventually

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
PSK = "0mLnmS2k9PSXJ9Y2Uo2PLtTR9TzRLGHKYkX7CpoI5Eg="


@contextmanager
def for_everybody() -> Iterator[Path]:
    """A folder that all users can read, like /run; pytest's own folders are closed."""
    with tempfile.TemporaryDirectory(prefix="overlayd-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Hosts in a network with a preshared key."""
    with for_everybody() as folder, laboratory(folder, {"Type": "wireguard", "PSK": PSK}) as lab:
        lab.host("a")
        lab.host("b")
        yield lab


def as_nobody(host: Host, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a host as an ordinary user."""
    words = [*host.enter, *NOBODY, *argv]
    return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=60, check=False)


def read_as_nobody(host: Host, folder: Path) -> str:
    """All that the user can read below a folder."""
    return as_nobody(host, "sh", "-c", f"cat {folder}/* {folder}/.[!.]* 2>/dev/null").stdout


def test_nothing_of_ours_can_be_written_and_no_secret_be_read(a: Host) -> None:
    key = (a.state_dir / "wireguard.key").read_text().strip()
    for folder in (a.run_dir, a.state_dir):
        text = read_as_nobody(a, folder)
        assert PSK not in text
        assert key not in text
        for path in (folder, *folder.iterdir()):
            mode = path.stat().st_mode
            assert not mode & 0o022, path
            assert stat.S_ISDIR(mode) or stat.S_ISREG(mode)
    # Everybody may read the run directory, and only root the state directory.
    assert "FLANNEL_SUBNET" in read_as_nobody(a, a.run_dir)
    assert read_as_nobody(a, a.state_dir) == ""
    pid = a.status()["pid"]
    for name in ("environ", "mem", "maps", "fd/0"):
        assert as_nobody(a, "cat", f"/proc/{pid}/{name}").returncode != 0
    assert as_nobody(a, "kill", "-TERM", str(pid)).returncode != 0
    assert PSK not in as_nobody(a, "cat", f"/proc/{pid}/cmdline").stdout


def test_commands_that_change_the_host_are_for_root(a: Host, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    for command in (("run",), ("cleanup",), ("docker", "settle")):
        words = [*command, f"--run-dir={theirs}", f"--state-dir={theirs}", f"--config-file={os.devnull}"]
        done = as_nobody(a, *interpreter.for_everybody(), "-m", "overlayd", *words)
        assert done.returncode == PrivilegeError.exit_status, done
    assert list(theirs.iterdir()) == []


def test_a_backends_port_that_a_user_has_is_reported_and_taken_when_it_is_free(a: Host) -> None:
    a.stop()
    a.cleanup()
    squatter = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 51820)); print(1); input()"
    argv = [*a.enter, *NOBODY, "/usr/bin/python3", "-uc", squatter]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        a.start(ready=False)
        said = eventually("it is told", lambda: a.status().get("problem") or " ".join(a.status().get("problems", [])))
        assert "Address already in use" in said
        assert "51820" in said
    finally:
        child.communicate(b"\n", timeout=10)
    eventually("it is ready", lambda: a.status()["state"] == "ready", timeout_s=30)

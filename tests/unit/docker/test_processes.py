"""A dockerd is found among the processes of this host, whose names are read while they are new."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlayd.docker import processes
from overlayd.docker.processes import ALL_S, DockerdSearch
from tests.testbed.polling import eventually


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, for the length of the block."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def dockerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program whose process has a name as dockerd's, and does nothing. This machine's own dockerd does not count."""
    monkeypatch.setattr(processes, "_NAME", b"dockerd-of-a")
    path = tmp_path / "dockerd-of-a-test"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", path)
    return str(path)


def test_one_that_starts_is_found_and_forgotten_when_it_ends(dockerd: str) -> None:
    search = DockerdSearch(clock=lambda: 0.0)
    for _ in range(3):
        assert search.argv() is None
    with running(dockerd, "60"):
        eventually("it is found", lambda: search.argv() == (dockerd, "60"))
        assert search.argv() == (dockerd, "60")
    assert search.argv() is None
    with running(dockerd, "61"):
        eventually("the next one is found", lambda: search.argv() == (dockerd, "61"))


def test_names_are_read_twice_and_then_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now, read = 0.0, list[str]()

    def named_dockerd(pid: str) -> bool:
        read.append(pid)
        return False

    monkeypatch.setattr(processes, "_named_dockerd", named_dockerd)
    search, own = DockerdSearch(clock=lambda: now), str(os.getpid())
    for _ in range(5):
        search.argv()
    assert read.count(own) == 2
    now = ALL_S
    for _ in range(5):
        search.argv()
    assert read.count(own) == 4


def test_a_shell_that_becomes_dockerd_is_found(dockerd: str) -> None:
    search = DockerdSearch(clock=lambda: 0.0)
    search.argv()
    with running("sh", "-c", f"read line; exec {dockerd} 60") as shell:
        assert search.argv() is None
        assert shell.stdin is not None
        shell.stdin.write(b"go\n")
        shell.stdin.flush()
        eventually("it is dockerd", lambda: Path(f"/proc/{shell.pid}/comm").read_text().startswith("dockerd"))
        assert search.argv() == (dockerd, "60")

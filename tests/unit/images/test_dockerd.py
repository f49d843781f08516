"""Which dockerd is ours to stop. A long sleep under that name plays it: it is only told to end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.engine import dockerd
from images.engine.place import ROOT
from tests.testbed.polling import eventually


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that the pid file names, and no Docker that answers."""
    program = shutil.copy(shutil.which("sleep") or "", tmp_path / "dockerd")
    for name in ("PIDFILE", "STARTED_BY", "USERS"):
        monkeypatch.setattr(dockerd, name, tmp_path / name)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere")
    with subprocess.Popen([program, "300"]) as process:
        dockerd.PIDFILE.write_text(f"{process.pid}\n")
        named = Path(f"/proc/{process.pid}/comm")
        eventually("it has its name", lambda: named.read_text().strip() == "dockerd", timeout_s=10)
        try:
            yield process
        finally:
            process.kill()


def test_what_this_checkout_started_is_stopped(started: subprocess.Popen[bytes]) -> None:
    dockerd.STARTED_BY.write_text(f"{ROOT}\n")
    assert dockerd.stop() is None
    assert not Path(f"/proc/{started.pid}").exists()
    assert not dockerd.PIDFILE.exists()
    assert dockerd.stop() is None, "a second time there is nothing to do"


def test_what_another_checkout_started_goes_on_and_the_checkout_is_named(
    started: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    dockerd.STARTED_BY.write_text(f"{tmp_path}\n")
    assert dockerd.stop() == f"dockerd was started by {tmp_path}: `make down` there stops it"
    assert started.poll() is None


def test_what_a_checkout_that_is_gone_started_is_anybodys_to_stop(
    started: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    dockerd.STARTED_BY.write_text(f"{tmp_path / 'gone'}\n")
    assert dockerd.stop() is None
    assert not Path(f"/proc/{started.pid}").exists()


def test_what_nobody_here_started_is_left_alone(started: subprocess.Popen[bytes]) -> None:
    assert dockerd.stop() is None
    assert started.poll() is None

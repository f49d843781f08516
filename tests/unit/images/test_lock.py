"""One process at a time: the second says for whom it waits, and goes on when the first ends, however it ends."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from images.engine import lock
from images.engine.errors import BuildError
from tests.testbed.polling import eventually

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys
from pathlib import Path
from images.engine import lock
with lock.held(Path(sys.argv[1]), "thing", "invoke one"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock, or waits for it, until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def line(stream: object) -> str:
    return str(stream.readline()).strip()  # type: ignore[attr-defined]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lock"


@pytest.mark.parametrize("ending", ["in order", "killed"])
def test_the_second_waits_for_the_first_by_its_number(path: Path, ending: str) -> None:
    with process(path) as first:
        assert line(first.stdout) == "held"
        with process(path) as second:
            assert line(second.stderr) == f"thing: waiting for process {first.pid} (invoke one) to end"
            if ending == "killed":
                first.kill()
            else:
                first.communicate(timeout=20)
            assert line(second.stdout) == "held"


def test_ctrl_c_ends_the_wait_and_leaves_the_lock_to_its_holder(path: Path) -> None:
    with process(path) as first:
        assert line(first.stdout) == "held"
        with process(path) as second:
            assert "waiting" in line(second.stderr)
            second.send_signal(signal.SIGINT)
            second.wait(timeout=20)
        with process(path) as third:
            assert f"process {first.pid} " in line(third.stderr)


def test_a_lock_that_was_removed_meanwhile_lets_no_two_in(path: Path) -> None:
    with process(path) as first:
        assert line(first.stdout) == "held"
        with process(path) as second:
            assert "waiting" in line(second.stderr)
            path.unlink()
            first.communicate(timeout=20)
            assert line(second.stdout) == "held"
            eventually("it holds the file that has the name", lambda: path.read_text().startswith(str(second.pid)))


def test_it_is_nobody_elses_to_read_or_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    root = tmp_path / "overlayd-build"
    root.mkdir(mode=0o755)
    with lock.held(lock.folder(root) / "x.lock", "thing", "one"):
        modes = [stat.S_IMODE(found.stat().st_mode) for found in (root, root / "x.lock")]
    assert modes == [0o700, 0o600]
    assert (root / "x.lock").read_text() == ""


def test_a_trap_in_its_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "overlayd-build").symlink_to("elsewhere")
    with pytest.raises(BuildError, match="overlayd-build is not a folder of the user"):
        lock.folder(tmp_path / "overlayd-build")
    (tmp_path / "x.lock").symlink_to("/etc/passwd")
    with (
        pytest.raises(BuildError, match=r"x\.lock: Too many levels of symbolic links"),
        lock.held(tmp_path / "x.lock", "thing", "one"),
    ):
        pass

"""A night ends with a page, one line that counts, and an exit status, whatever happened in it."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlayd.errors import OverlaydError
from tests.nightly import night, parts
from tests.nightly.parts import ROOT, Part
from tests.testbed.polling import eventually
from tests.unit.nightly import made

PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-c",
    "/dev/null",
    "-p",
    "no:cacheprovider",
    "--override-ini=junit_family=xunit1",
)


def with_tests(folder: Path, source: str) -> Part:
    """A part with real tests of this source, whose results are where the night looks for them."""
    (folder / "sources").mkdir(parents=True)
    (folder / "sources" / "test_it.py").write_text(source)
    argv = (*PYTEST, f"--rootdir={folder / 'sources'}", f"--junitxml={folder / 'junit.xml'}", str(folder / "sources"))
    return Part(name="tests", argv=argv, ends_at_s=60)


def python(name: str, script: str, ends_at_s: float = 60.0) -> Part:
    return Part(name=name, argv=(sys.executable, "-c", script), ends_at_s=ends_at_s)


def run(folder: Path, *wanted: Part) -> night.Closed:
    return night.run(wanted, folder, lambda _text: None, docker=False)


def page(folder: Path) -> str:
    return (folder / night.PAGE).read_text()


def test_tests_that_pass_are_well_and_the_night_is_kept(tmp_path: Path) -> None:
    closed = run(tmp_path, python("build", ""), with_tests(tmp_path, "def test_a(): pass\ndef test_b(): pass\n"))
    assert closed.well
    assert re.fullmatch(r"=+ 2 passed in [\d.]+s \(0:00:\d\d\) =+", closed.line)
    assert "All passed" in page(tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_failed_build_a_failed_test_and_a_bench_without_figures_are_counted(tmp_path: Path) -> None:
    build = python("build", "print('no space on the mirror'); raise SystemExit(1)")
    closed = run(tmp_path, build, with_tests(tmp_path, "def test_a(): assert 0\n"), python("bench", ""))
    assert not closed.well
    assert " 1 failed, 2 errors in " in closed.line
    text = page(tmp_path)
    assert text.index("no space on the mirror") < text.index("test_a") < text.index("it left no figures")


def test_results_of_the_night_before_are_not_taken_for_tonights(tmp_path: Path) -> None:
    made.results(tmp_path, b"<testsuites/>", made.bench())
    (tmp_path / "tests.log").write_text("old")
    closed = run(tmp_path, python("build", "raise SystemExit(1)"))
    assert " 2 errors in " in closed.line
    assert not (tmp_path / "bench.json").exists()
    assert not (tmp_path / "tests.log").exists()


def test_a_part_that_is_cut_off_does_not_take_the_others_time(tmp_path: Path) -> None:
    slow = python("build", "import time; time.sleep(300)", ends_at_s=1)
    closed = run(tmp_path, slow, with_tests(tmp_path, "def test_a(): pass\n"))
    assert " 1 passed, 1 error in " in closed.line
    assert re.search(r"cut off after [01]\.\d s", page(tmp_path))


def test_a_defect_of_ours_is_an_error_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(parts, "run", broken)
    closed = run(tmp_path, python("build", ""))
    assert (closed.well, "RuntimeError: a defect" in page(tmp_path)) == (False, True)


def test_a_page_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("<b>a defect</b>")

    monkeypatch.setattr(night, "view", broken)
    made.results(tmp_path, None, None)
    with pytest.raises(OverlaydError, match="a defect"):
        night.render(tmp_path)
    assert "RuntimeError: &lt;b&gt;a defect" in page(tmp_path)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of that size on a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.needs("root")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_a_full_disk_is_one_clear_message_and_leaves_no_half_file(tmp_path: Path) -> None:
    folder = tmp_path / "night"
    with small_disk(folder, "64k"):
        (folder / "taken").write_bytes(b"x" * 40_000)
        with pytest.raises(OverlaydError, match=f"{folder}: {os.strerror(errno.ENOSPC)}") as caught:
            run(folder, python("build", "print('much ' * 10_000)"))
        assert "invoke clean" in str(caught.value)
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_the_time_is_shared_between_the_parts() -> None:
    found = night.parts_of("", 80 * 60, bench=True)
    assert [(part.name, part.ends_at_s / 60) for part in found] == [("build", 15), ("tests", 57.75), ("bench", 77)]
    # The last one has to be killed, and the page is to be made.
    assert found[-1].ends_at_s + parts.GRACE_S < 80 * 60
    only = night.parts_of("tests/unit/leases -x", 600, bench=False, build=False)
    assert [(part.name, part.argv[-1], part.ends_at_s) for part in only] == [
        ("tests", "--only=tests/unit/leases -x", 420)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_night_that_is_broken_off_has_a_page_of_what_there_is(tmp_path: Path, number: signal.Signals) -> None:
    wait = "    (Path(__file__).parents[1] / 'in b').touch()\n    time.sleep(300)\n"
    slow = f"import time\nfrom pathlib import Path\ndef test_a(): pass\ndef test_b():\n{wait}def test_c(): pass\n"
    wanted = (with_tests(tmp_path, slow), python("bench", ""))
    script = (
        "import sys\nfrom pathlib import Path\nfrom tests.nightly import night\nfrom tests.nightly.parts import Part\n"
        f"wanted = [Part(**one) for one in {[vars(one) for one in wanted]!r}]\n"
        f"print(night.run(wanted, Path({str(tmp_path)!r}), print, docker=False).line)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT}"}
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)
    eventually("b runs", (tmp_path / "in b").exists, timeout_s=60)
    child.send_signal(number)
    said, _ = child.communicate(timeout=60)
    assert " 1 passed, 2 errors in " in said.splitlines()[-1]
    text = page(tmp_path)
    assert "Broken off, 2 errors" in text
    assert "broken off after " in text
    assert "the night was broken off before" in text
    # It was in b.
    assert "test_it.py:6: KeyboardInterrupt" in text

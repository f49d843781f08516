"""Several runs of pytest share the tests: each test is run once, a set-up by one run, one group of a lane at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import sharing, side_by_side
from tests.nightly.junit import summarize
from tests.sharing import Group
from tests.testbed.polling import eventually

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import os, time
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def place():
    with Path({log!r}).open("a") as log:
        print("begin", {name!r}, os.getpid(), flush=True, file=log)
        yield
        print("end", {name!r}, os.getpid(), flush=True, file=log)

{mark}
@pytest.mark.parametrize("number", range(3))
def test_it(place, number):
    time.sleep(0.2)
    {body}
"""


def write(folder: Path, name: str, *, mark: str = "", body: str = "") -> None:
    path = folder / f"test_{name}.py"
    path.write_text(TESTS.format(log=str(folder / "log"), name=name, mark=mark, body=body or "pass"))


def lines(folder: Path) -> list[list[str]]:
    log = folder / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def test_each_test_is_run_once_and_the_counts_are_added(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        write(tmp_path, name, body="assert number < 2, 'too much'" if name == "d" else "")
    junit = tmp_path / "junit.xml"
    assert not side_by_side.run(["-m", "not slow"], [str(tmp_path)], runs=3, junit=junit)
    found = summarize(junit.read_bytes())
    assert (found.count("passed"), found.count("failed")) == (11, 1)
    said = capfd.readouterr().out
    assert " 1 failed, 11 passed in " in said.splitlines()[-1]
    assert said.count("too much") >= 1
    # A set-up is made once.
    assert sorted(line[1] for line in lines(tmp_path) if line[0] == "begin") == list("abcd")


def test_a_run_that_gets_no_test_is_well(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a")
    assert side_by_side.run([], [str(tmp_path)], runs=3)
    assert " 3 passed in " in capfd.readouterr().out.splitlines()[-1]


def test_no_test_at_all_is_not_well(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a", mark="@pytest.mark.slow")
    assert not side_by_side.run(["-m", "not slow"], [str(tmp_path)], runs=2)
    assert " 3 deselected, " in capfd.readouterr().out.splitlines()[-1]


def test_of_one_lane_one_group_is_run_at_a_time_and_one_set_up_is_one_group(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        write(tmp_path, name, mark="@pytest.mark.lane('narrow')")
    for name in "de":
        write(tmp_path, name, mark="@pytest.mark.setup('shared')")
    assert side_by_side.run([], [str(tmp_path)], runs=3)
    found = lines(tmp_path)
    narrow = [(word, name) for word, name, _ in found if name in "abc"]
    assert [word for word, _ in narrow] == ["begin", "end"] * 3
    assert len({process for _, name, process in found if name in "de"}) == 1


def test_what_is_marked_alone_comes_last_with_nothing_beside_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        write(tmp_path, name, mark="@pytest.mark.alone")
    for name in "cde":
        write(tmp_path, name)
    assert side_by_side.run([], [str(tmp_path)], runs=3)
    found = [(word, name) for word, name, _ in lines(tmp_path)]
    assert {name for _, name in found[:6]} == set("cde")
    assert [word for word, _ in found[6:]] == ["begin", "end"] * 2
    assert " 15 passed" in capfd.readouterr().out.splitlines()[-1]


def test_interrupted_it_lets_each_run_clean_up(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path, name, body="time.sleep(60)")
    call = f"from tests import side_by_side; side_by_side.run([], [{str(tmp_path)!r}], runs=2)"
    with subprocess.Popen([sys.executable, "-c", call], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            eventually("both have begun", lambda: len(lines(tmp_path)) == 2, timeout_s=60)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in said
    for name in "ab":
        assert f"test_{name}.py::test_it[0] (" in said[said.index("interrupted in") :]
    assert sorted(word for word, _, _ in lines(tmp_path)) == ["begin", "begin", "end", "end"]


def test_a_run_that_does_not_clean_up_is_killed_and_the_results_of_the_others_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "a")
    ignored = f"Path({str(tmp_path / 'ignored')!r}).touch()"
    write(tmp_path, "b", body=f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {ignored}; time.sleep(60)")
    junit = tmp_path / "junit.xml"
    call = "from pathlib import Path; from tests import side_by_side; side_by_side.CLEAN_UP_S = 3.0; "
    call += f"side_by_side.run([], [{str(tmp_path)!r}], runs=2, junit=Path({str(junit)!r}))"
    with subprocess.Popen([sys.executable, "-c", call], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            # a's run has ended; b's test says that it ignores the signal.
            assert any(" 3 passed in " in line for line in process.stdout)
            eventually("b ignores it", (tmp_path / "ignored").exists, timeout_s=60)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
    found = summarize(junit.read_bytes())
    assert (found.count("passed"), [case.message for case in found.cases]) == (
        3,
        ["this run of pytest did not come to its end"],
    )


def test_a_group_is_given_to_one_and_the_long_ones_first(tmp_path: Path) -> None:
    groups = [Group(name="x"), Group(name="y", lane="one"), Group(name="z", lane="one")]
    mine = sharing.claimed_groups(tmp_path, groups)
    assert next(mine).name == "x"
    assert next(mine).name == "y"
    # z has to wait for its lane; whoever else asks gets nothing meanwhile.
    others = sharing.claimed_groups(tmp_path, groups[:2])
    assert [group.name for group in mine] == ["z"]
    assert [group.name for group in others] == []

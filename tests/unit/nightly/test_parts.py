"""Parts of a night end in time, and leave nothing running: tried with real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.nightly import parts, reaper
from tests.nightly.parts import BROKEN_OFF, CUT_OFF, FAILED, NOT_RUN, ROOT, WELL, Outcome, Part
from tests.testbed.polling import eventually
from tests.testbed.processes import runs

# A command that leaves a daemon behind: a grandchild in a session of its own, whose parent ends.
LEAVING = """
import os, subprocess, sys, time
child = "import os, subprocess, sys; print(subprocess.Popen(['sleep', '300'], start_new_session=True).pid, flush=True)"
subprocess.run([sys.executable, "-c", child])
"""
WAITING = "print('waits', flush=True)\ntime.sleep(300)\n"
DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"


def part(script: str, ends_at_s: float = 60.0) -> Part:
    return Part(name="part", argv=(sys.executable, "-c", script), ends_at_s=ends_at_s)


def run(script: str, folder: Path, *, within_s: float = 60.0, grace_s: float = 20.0) -> tuple[Outcome, str]:
    log = folder / "log"
    outcome = parts.run(part(script, within_s), log, time.monotonic(), grace_s=grace_s)
    return outcome, log.read_text()


def left(said: str) -> int:
    """The process that LEAVING left, by what it printed."""
    return int(said.splitlines()[0])


def gone(pid: int) -> bool:
    return not runs(pid)


def test_a_part_that_ends_is_well_or_failed_and_its_output_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, said = run("print('hello')", tmp_path)
    assert (outcome.ended, outcome.problem, said) == (WELL, "", "hello\n")
    assert capsys.readouterr().out == "hello\n"
    outcome, _ = run("raise SystemExit(3)", tmp_path)
    assert (outcome.ended, outcome.problem) == (FAILED, "it ended with status 3")
    outcome, _ = run("import os; os.kill(os.getpid(), 9)", tmp_path)
    assert (outcome.ended, outcome.problem) == (FAILED, "it ended with status 137")


def test_what_a_part_leaves_running_is_killed_when_it_ends(tmp_path: Path) -> None:
    outcome, said = run(LEAVING, tmp_path)
    assert outcome.ended == WELL
    assert gone(left(said))
    assert f"killed what it left running: sleep ({left(said)})" in said


def test_a_part_that_takes_too_long_is_interrupted_and_cleans_up(tmp_path: Path) -> None:
    script = "import time\ntry:\n    time.sleep(300)\nfinally:\n    print('cleaned up')\n"
    outcome, said = run(script, tmp_path, within_s=1.0)
    assert (outcome.ended, outcome.problem) == (CUT_OFF, "cut off after 1.0 s")
    assert "cleaned up" in said
    assert outcome.seconds < 15


def test_a_part_that_does_not_clean_up_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    outcome, said = run(DEAF + LEAVING + WAITING, tmp_path, within_s=2.0, grace_s=0.5)
    assert outcome.ended == CUT_OFF
    assert outcome.problem == "cut off after 2.0 s, and killed as it did not clean up within 0.5 s"
    assert gone(left(said))


def test_a_part_without_time_is_not_run(tmp_path: Path) -> None:
    outcome = parts.run(part("print('ran')"), tmp_path / "log", time.monotonic() - 100)
    assert outcome.ended == NOT_RUN
    assert not (tmp_path / "log").exists()


def test_a_part_that_cannot_be_started_has_failed(tmp_path: Path) -> None:
    outcome, _ = run("", tmp_path)
    assert outcome.ended == WELL
    nothing = Part(name="part", argv=("/nonexistent",), ends_at_s=60)
    assert parts.run(nothing, tmp_path / "log", time.monotonic()).ended == FAILED
    assert parts.run(nothing, tmp_path / "no folder" / "log", time.monotonic()).problem.startswith("it could not")


# A night's process that has one part, and says how it ended.
OF_ITS_OWN = """
import sys, time
from pathlib import Path
from images.engine.interrupts import sigterm_raises
from tests.nightly import parts
part = parts.Part(name="part", argv=(sys.executable, "-c", sys.argv[1]), ends_at_s=60)
with sigterm_raises(KeyboardInterrupt()):
    outcome = parts.run(part, Path(sys.argv[2]), time.monotonic(), grace_s=float(sys.argv[3]))
print("OUTCOME", outcome.ended, "|", outcome.problem, flush=True)
"""


def started(script: str, log: Path, grace_s: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", OF_ITS_OWN, script, str(log), str(grace_s)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT}"}
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    eventually("the part waits", lambda: log.exists() and "waits" in log.read_text())
    return child


def ended(child: subprocess.Popen[str]) -> str:
    said, _ = child.communicate(timeout=30)
    return said.partition("OUTCOME ")[2].strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_breaks_a_part_off(tmp_path: Path, number: signal.Signals) -> None:
    child = started(LEAVING + WAITING, tmp_path / "log", 20)
    child.send_signal(number)
    assert re.fullmatch(rf"{BROKEN_OFF} \| broken off after [\d.]+ s", ended(child))
    assert gone(left((tmp_path / "log").read_text()))


def test_a_second_interrupt_kills_it(tmp_path: Path) -> None:
    child = started(DEAF + LEAVING + WAITING, tmp_path / "log", 60)
    child.send_signal(signal.SIGINT)
    # The first is being waited for.
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    assert re.fullmatch(r".* after [\d.]+ s, and killed at the second interrupt", ended(child))
    assert gone(left((tmp_path / "log").read_text()))


def test_nothing_outlives_a_night_that_is_killed(tmp_path: Path) -> None:
    child = started(DEAF + LEAVING + WAITING, tmp_path / "log", 60)
    of_it = reaper.descendants(child.pid)
    assert len(of_it) >= 2
    child.kill()
    child.communicate(timeout=30)
    eventually("all have ended", lambda: all(map(gone, of_it)))
    assert gone(left((tmp_path / "log").read_text()))

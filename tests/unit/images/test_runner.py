"""Builds of real files, by threads and child processes: order, failure, being stopped, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from images.engine import containers, docker_images, runner
from images.engine.errors import BuildError, StepFailed
from images.engine.graph import Target
from images.engine.place import Place
from images.engine.step import Step
from tests.testbed.polling import until
from tests.testbed.processes import group_runs

DEADLINE_S = 20.0
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """These targets make files only, and unit tests run where there is no Docker: there is nothing to remove."""
    for module in (containers, docker_images):
        monkeypatch.setattr(module, "remove_leftovers", lambda _owner: [])


def files(name: str, *needs: str, recipe: str = "1", run: Callable[[Step], None] | None = None) -> Target:
    """A target that writes its name, and what it needs, into a file."""
    path = Path("out") / name

    def build(step: Step) -> None:
        if run is not None:
            run(step)
        below = "".join((step.build / "out" / need).read_text() for need in needs)
        step.output(path).write_text(f"{name}({below})")

    return Target(name=name, build=build, inputs={"recipe": recipe}, needs=needs, outputs=(path,))


def graph(*targets: Target) -> dict[str, Target]:
    return {target.name: target for target in targets}


def fails(step: Step) -> None:
    step.output(Path("out") / step.target.name).write_text("half")
    step.run(["sh", "-c", "echo reason; exit 3"])


def test_builds_in_order_and_only_once(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    targets = graph(files("top", "left", "right"), files("left", "base"), files("right", "base"), files("base"))
    built = runner.build(place, targets, ["top"])
    assert built[0] == "base"
    assert built[-1] == "top"
    assert (place.build / "out/top").read_text() == "top(left(base())right(base()))"
    assert runner.build(place, targets, ["top"]) == []
    targets["left"] = files("left", "base", recipe="2")
    assert runner.build(place, targets, ["top"]) == ["left", "top"]


def test_two_that_do_not_need_each_other_run_side_by_side(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=DEADLINE_S)

    def meet(_step: Step) -> None:
        meeting.wait()

    targets = graph(files("a", run=meet), files("b", run=meet))
    assert sorted(runner.build(Place(root=tmp_path), targets, ["a", "b"])) == ["a", "b"]


def test_a_failure_names_the_command_the_log_and_what_was_not_begun(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    targets = graph(files("top", "bad"), files("bad", run=fails))
    with pytest.raises(StepFailed) as caught:
        runner.build(place, targets, ["top"], repeat=("invoke", "again"))
    text = str(caught.value)
    assert "sh -c 'echo reason; exit 3'" in text
    assert "status 3" in text
    assert "  | reason" in text
    assert "build/logs/bad.log" in text
    assert "invoke again bad" in text
    assert "not begun: top" in text
    assert "reason" in (place.build / "logs/bad.log").read_text()


def test_a_failure_leaves_nothing_half_made_and_the_old_result_in_place(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    runner.build(place, graph(files("bad")), ["bad"])
    with pytest.raises(StepFailed):
        runner.build(place, graph(files("bad", recipe="2", run=fails)), ["bad"])
    assert (place.build / "out/bad").read_text() == "bad()"
    assert not list((place.build / "tmp").iterdir())
    assert runner.build(place, graph(files("bad")), ["bad"]) == []


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    (place.build / "tmp/old/out").mkdir(parents=True)
    runner.build(place, graph(files("a")), ["a"])
    assert not (place.build / "tmp/old").exists()


_LONG_BUILD = """
import signal
import sys
import threading
from pathlib import Path
from images.engine import containers, docker_images, runner
from images.engine.graph import Target
from images.engine.place import Place
containers.remove_leftovers = docker_images.remove_leftovers = lambda owner: []

def build(step):
    step.output(Path("half")).write_text("half")
    if "unseen" in sys.argv:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    step.run(["sh", "-c", "echo $$ > " + str(step.build / "pid") + "; sleep 300 & wait"])

target = Target(name="long", build=build, inputs={}, outputs=(Path("half"),))
try:
    runner.build(Place(root=Path(sys.argv[1])), {"long": target}, ["long"])
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_ends_its_children_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _LONG_BUILD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        pidfile = tmp_path / "build/pid"
        until(lambda: pidfile.exists() and pidfile.read_text().strip())
        group = int(pidfile.read_text())
        child.send_signal(number)
        assert child.wait(DEADLINE_S) == 130
    finally:
        child.kill()
        child.wait()
    until(lambda: not group_runs(group))
    assert not (tmp_path / "build/half").exists()
    assert not list((tmp_path / "build/tmp").iterdir())
    assert not (tmp_path / "build/stamps/long.json").exists()


def test_an_interrupt_that_does_not_wake_the_main_thread_stops_the_build_at_once_too(tmp_path: Path) -> None:
    # As where it comes just before the main thread begins to wait: no system call of that thread is interrupted.
    done = subprocess.run(
        [sys.executable, "-c", _LONG_BUILD, str(tmp_path), "unseen"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 130
    assert not (tmp_path / "build/half").exists()
    assert not list((tmp_path / "build/tmp").iterdir())


def test_what_nobody_expected_names_target_log_and_command_and_the_log_tells_how(tmp_path: Path) -> None:
    def broken(step: Step) -> None:
        raise TypeError("extractall() got an unexpected keyword argument")

    place = Place(root=tmp_path)
    targets = graph(files("top", "odd"), files("odd", run=broken))
    with pytest.raises(StepFailed) as caught:
        runner.build(place, targets, ["top"], repeat=("invoke", "again"))
    assert caught.value.message == (
        "odd was not built: unexpected TypeError: extractall() got an unexpected keyword argument"
    )
    assert caught.value.hint is not None
    assert "log: build/logs/odd.log" in caught.value.hint
    assert "again: invoke again odd" in caught.value.hint
    log = (place.build / "logs/odd.log").read_text()
    assert "Traceback" in log
    assert "in broken" in log
    assert not (place.build / "out/odd").exists()


def test_the_users_umask_variables_and_modes_of_files_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files/sub").mkdir(parents=True)
    for name, mode in {"plain": 0o600, "sub/program": 0o700, "open": 0o666}.items():
        (tmp_path / "files" / name).write_text(name)
        (tmp_path / "files" / name).chmod(mode)
    (tmp_path / "files/link").symlink_to("sub/program")
    (tmp_path / "files/not-counted").write_text("")
    monkeypatch.setenv("TAR_OPTIONS", "--owner=nobody")
    monkeypatch.setenv("HTTP_PROXY", "http://198.18.0.1:3128")
    counted = tuple(Path("files") / name for name in ("plain", "sub", "open", "link"))
    seen: dict[str, str] = {}

    def build(step: Step) -> None:
        made = step.output(Path("made"))
        made.mkdir()
        step.run(["sh", "-c", f"env >{step.scratch}/env; umask; mkdir {made}/sub; cp -a {step.checkout} {made}/copy"])
        seen.update(line.partition("=")[::2] for line in (step.scratch / "env").read_text().splitlines())

    before = os.umask(0o077)
    try:
        for network in (False, True):
            target = Target(
                name=f"t{network}", build=build, inputs={}, outputs=(Path("made"),), files=counted, network=network
            )
            seen.clear()
            runner.build(Place(root=tmp_path), graph(target), [target.name])
            assert "TAR_OPTIONS" not in seen
            assert ("HTTP_PROXY" in seen) is network
            assert seen["LC_ALL"] == "C.UTF-8"
        assert os.umask(0o077) == 0o077, "the user's own umask is back"
    finally:
        os.umask(before)
    made = tmp_path / "build/made"
    modes = {str(p.relative_to(made)): oct(p.lstat().st_mode & 0o777) for p in made.rglob("*") if not p.is_symlink()}
    assert modes == {
        **dict.fromkeys(("sub", "copy", "copy/files", "copy/files/sub", "copy/files/sub/program"), "0o755"),
        **dict.fromkeys(("copy/files/plain", "copy/files/open"), "0o644"),
    }
    assert str((made / "copy/files/link").readlink()) == "sub/program"


def test_a_clock_that_was_put_back_is_named_at_once(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    runner.build(place, graph(files("a")), ["a"])
    later = time.time() + 86400
    os.utime(place.build / "lock", (later, later))
    with pytest.raises(BuildError, match=r"clock says .* and the last build of .*/build was at ") as caught:
        runner.build(place, graph(files("a", recipe="2")), ["a"])
    # The remedy, as it is printed, mends it.
    assert caught.value.hint is not None
    (place.build / "keys").mkdir()
    (place.build / "cache/stamps").mkdir(parents=True)
    subprocess.run(["sh", "-euc", caught.value.hint.rpartition(": ")[2]], check=True)
    assert runner.build(place, graph(files("a", recipe="2")), ["a"]) == ["a"]

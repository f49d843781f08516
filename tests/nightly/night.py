"""A night: build, all tests, the bench; then one page of it all, and one line that counts.

Whatever happens before, the page is written: a part that fails, hangs or leaves nothing is an error on it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from docker.errors import DockerException

from images.engine import commit, dockerd
from images.engine.errors import BuildError
from images.engine.files import write
from images.engine.interrupts import sigterm_raises
from overlayd.errors import OverlaydError
from tests.nightly import parts, results, rotation, runs
from tests.nightly.junit import in_words
from tests.nightly.page import failed_page, page
from tests.nightly.parts import BROKEN_OFF, CUT_OFF, NOT_RUN, ROOT, Outcome, Part
from tests.nightly.results import BENCH, BENCHMARK, JUNIT, NIGHT, TESTS, Night, write_night
from tests.nightly.view import view
from tests.testbed.cluster import create, docker_engine
from tests.testbed.cluster.description import CLUSTER_LABEL
from tests.testbed.netns import namespaces

FOLDER = ROOT / "build" / "nightly"
PAGE, KEPT = "index.html", "runs"
WITHIN_MIN = 80
# At its end a night has this long for a part that has to be killed, and for the page.
_CLOSING_S = parts.GRACE_S + 60
# A build from nothing takes half of it.
_BUILD_S = 900.0
# The bench gets this part of a night, and what the tests leave.
_BENCH_PART = 0.25
_BENCH_FILE = ROOT / "build" / "bench" / "bench.json"
# What tests and the bench name their clusters; others are somebody else's.
_OF_TESTS = re.compile(r"(test|bench|upgrade)(-.*)?")
# Below this a build or the tests fill the disk, and fail in ways that are hard to read.
_ROOM_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Closed:
    """How a night ended: its one line, and whether all is well."""

    line: str
    well: bool
    page: Path


def parts_of(selection: str, within_s: float, *, bench: bool, build: bool = True) -> list[Part]:
    """The parts of a night in their order. `selection`: paths or options of pytest; without any, all tests are run."""
    invoke = (sys.executable, "-m", "invoke")
    latest_s = max(within_s - _CLOSING_S, within_s / 2)
    tests_end_s = latest_s * (1 - _BENCH_PART) if bench else latest_s
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    bases = [word for base in rotation.bases(date) for word in ("build-all", f"--base={base}")]
    # The part before has built what is missing; where that failed, it is not tried again.
    tests = [
        "env",
        f"{rotation.VARIABLE}={date}",
        *invoke,
        "test",
        "--all",
        "--no-build",
        f"--junit={FOLDER / JUNIT}",
    ]
    tests += [f"--only={selection}"] if selection else []
    found = [
        Part(name="build", argv=(*invoke, *bases, "build-all"), ends_at_s=min(_BUILD_S, tests_end_s / 2)),
        Part(name=TESTS, argv=tuple(tests), ends_at_s=tests_end_s),
        Part(name=BENCHMARK, argv=(*invoke, "bench", "--no-builds"), ends_at_s=latest_s),
    ]
    return [part for part in found if (build or part.name != "build") and (bench or part.name != BENCHMARK)]


def run(
    wanted: Sequence[Part], folder: Path, say: Callable[[str], None], *, selection: str = "", docker: bool = True
) -> Closed:
    """Run the parts one after the other and write the page. Raises OverlaydError where it cannot be written.

    A Ctrl-C or a SIGTERM ends the part that runs, and the page tells what there is. `docker`: the parts need a dockerd,
    which is started where none runs.
    """
    began, when = time.monotonic(), datetime.now(UTC)
    outcomes: list[Outcome] = []
    problems: list[str] = []
    try:
        _make_room(folder, problems)
        with _dockerd(problems) if docker else nullcontext(), sigterm_raises(KeyboardInterrupt()):
            for part in wanted:
                if any(one.ended == BROKEN_OFF for one in outcomes):
                    outcomes.append(Outcome(name=part.name, ended=NOT_RUN, problem="the night was broken off before"))
                    continue
                say(f"{part.name}: {shlex.join(part.argv)}")
                outcomes.append(_run(part, folder, began, problems))
    except KeyboardInterrupt:
        problems.append(f"{BROKEN_OFF} between its parts")
    except Exception:  # the page tells of it
        problems.append(traceback.format_exc())
    seconds = time.monotonic() - began
    night = Night(
        when=when,
        commit=_commit(),
        machine=_machine(),
        selection=selection,
        outcomes=tuple(outcomes),
        problems=tuple(problems),
        seconds=seconds,
    )
    with _room_for_the_page(folder):
        write_night(folder, night)
        return render(folder)


def render(folder: Path) -> Closed:
    """Write the page of the results in a folder, beside those of its older nights. Raises OSError and OverlaydError."""
    if not any((folder / name).exists() for name in (NIGHT, JUNIT, BENCH)):
        raise OverlaydError(
            f"{folder} has no results of a night", hint=f"name a folder with {NIGHT}, {JUNIT} or {BENCH} in it"
        )
    found = results.read(folder)
    when = found.night.when
    try:
        older, notes = runs.read(folder / KEPT, before=when)
        text = page(view(found, older, notes))
    except Exception as error:
        # A defect of ours: the results stay, and the page says where to look.
        write(folder / PAGE, failed_page(f"{when:%Y-%m-%d %H:%M UTC}", traceback.format_exc()))
        raise OverlaydError(
            f"the page could not be made: {error!r}", hint=f"{folder / PAGE} has the traceback"
        ) from error
    write(folder / PAGE, text)
    if found.night.told:
        runs.keep(folder / KEPT, found.run())
    return Closed(line=closing(found), well=not found.failures, page=folder / PAGE)


def closing(found: results.Results) -> str:
    """The one line that counts, like pytest's."""
    seconds = found.night.seconds
    clock = f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
    return f" {in_words(found.counts)} in {seconds:.2f}s ({clock}) ".center(100, "=")


def _run(part: Part, folder: Path, began: float, problems: list[str]) -> Outcome:
    """Run a part and take its figures. One that did not end by itself may have left clusters and namespaces."""
    started = time.time()
    outcome = parts.run(part, folder / f"{part.name}.log", began)
    if part.name == BENCHMARK and _BENCH_FILE.exists() and _BENCH_FILE.stat().st_mtime >= started:
        shutil.copyfile(_BENCH_FILE, folder / BENCH)
    if outcome.ended in (CUT_OFF, BROKEN_OFF):
        for name in _clusters():
            try:
                create.remove(name)
            except (OverlaydError, DockerException, OSError) as error:
                problems.append(f"{part.name} left the cluster {name}, which cannot be removed: {error}")
        with contextlib.suppress(OverlaydError, OSError):
            namespaces.sweep()
    return outcome


def _clusters() -> set[str]:
    """The names of clusters that tests and the bench have made; none where no dockerd answers."""
    if not dockerd.answers():
        return set()
    with contextlib.suppress(OverlaydError, DockerException, OSError):
        names = {str(one.labels[CLUSTER_LABEL]) for one in docker_engine.containers()}
        return {name for name in names if _OF_TESTS.fullmatch(name)}
    return set()


@contextmanager
def _dockerd(problems: list[str]) -> Iterator[None]:
    """Have a dockerd for all parts; where there can be none, the night goes on without."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(dockerd.running())
        except BuildError as error:
            problems.append(str(error))
        yield


def _make_room(folder: Path, problems: list[str]) -> None:
    """Make the folder, and remove the results of the night before, but not what is kept of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / NIGHT, folder / JUNIT, folder / BENCH, folder / PAGE, *folder.glob("*.log")):
        path.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        problems.append(f"{folder} has {free >> 20} MiB left, and a night needs {_ROOM_BYTES >> 20}; {_MAKE_ROOM}")


_MAKE_ROOM = "df shows which disk is full; `invoke clean` and `docker system prune` make room"


@contextmanager
def _room_for_the_page(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OverlaydError(
            f"the page cannot be written to {folder}: {error.strerror or error}; the night's results are lost",
            hint=f"{_MAKE_ROOM}; `invoke nightly.page` writes the page again from what is there",
        ) from error


def _commit() -> str:
    try:
        return commit.of(ROOT).id[:12]
    except (BuildError, OSError):
        return "unknown"


def _machine() -> tuple[str, ...]:
    found = [f"Linux {platform.release()}", f"{os.cpu_count()} processors"]
    if dockerd.answers():
        with contextlib.suppress(OverlaydError, DockerException, OSError):
            found.insert(1, f"Docker {docker_engine.client().version()['Version']}")
    return tuple(found)

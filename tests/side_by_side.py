"""Runs the tests in several runs of pytest at once, as most tests wait; and closes as one run of pytest does."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from images.engine.files import write
from tests.nightly.junit import in_words, merged

ROOT = Path(__file__).resolve().parent.parent
# Many tests wait for others: twice as many runs as CI has processors, and no more where there are more.
RUNS = 4
# What an interrupted run may take. A part of a night has more (tests/nightly/parts.py), so that results are written.
CLEAN_UP_S = 90.0
_CLOSING = re.compile(r"^=+ (?P<counts>.*\d+ \w+.*|no tests ran) in [\d.]+s.*=+$", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (failed|passed|skipped|deselected|xfailed|xpassed|warnings?|errors?)")
# What a run prints about all of its tests, and not about one file: it is shown when the run has ended.
_SUMMARY = re.compile(r"^=+ (?!test session starts)\S")
WITH_OUTPUT = ("--override-ini=junit_logging=all", "--override-ini=junit_log_passing_tests=false")
# pytest's own: all was well, and there was no test for this run.
_WELL, _NO_TEST = 0, 5


class Run:
    """One run of pytest. What it prints is in a file, and shown as far as it does not break into another run's."""

    def __init__(self, output: Path, share: Path, options: Sequence[str], paths: Sequence[str]) -> None:
        """Start it. It is interrupted by `interrupt` only: a Ctrl-C of the terminal does not reach it by itself."""
        self._output = output
        self._shown = 0
        self._holds = False
        argv = ["-m", "pytest", "-p", "tests.sharing", f"--share={share}", *options, *paths]
        with output.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, *argv], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def interrupt(self) -> None:
        """Let it stop after cleaning up, as at a Ctrl-C."""
        if self.runs():
            self._process.send_signal(signal.SIGINT)

    def wait(self, deadline: float) -> int:
        """Its exit status, when it has ended; after the deadline (time.monotonic) it is killed."""
        try:
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def show(self) -> None:
        """Print the lines that are new: of a run that goes on, only those of its tests' progress."""
        ended = not self.runs()
        with self._output.open("rb") as file:
            file.seek(self._shown)
            new = file.read()
        for line in new.splitlines(keepends=True):
            self._holds = self._holds or bool(_SUMMARY.match(line.decode(errors="replace")))
            if not ended and (self._holds or not line.endswith(b"\n")):
                break
            self._shown += len(line)
            sys.stdout.write(line.decode(errors="replace"))
        sys.stdout.flush()

    def text(self) -> str:
        """All that it printed."""
        return self._output.read_text(errors="replace")

    def closed(self) -> bool:
        """Whether it came to its closing line; one that was killed did not."""
        return bool(_CLOSING.search(self.text()))


def run(options: Sequence[str], paths: Sequence[str] = (), *, runs: int, junit: Path | None = None) -> bool:
    """Run the tests below `paths` (default: all) with these options of pytest, in so many runs; whether all is well.

    `junit`: the results of all are written there, as JUnit XML with the output of tests that failed. Interrupted, it
    interrupts the runs, once, and gives each CLEAN_UP_S to clean up; what they did until then is in the results.
    """
    began = time.monotonic()
    sys.stdout.write(f"{runs} at once: {shlex.join(['pytest', *options, *paths])}\n")
    with tempfile.TemporaryDirectory(prefix="overlayd-tests-") as folder:
        share = Path(folder) / "share"
        share.mkdir()
        started: list[Run] = []
        try:
            for number in range(runs):
                # The number of files that a run will get is not known before: no percentage, and one header will do.
                quiet = ["--override-ini=console_output_style=classic", *(["--no-header"] if number else [])]
                noted = [f"--junitxml={folder}/{number}.xml", *WITH_OUTPUT] if junit else []
                started.append(Run(Path(folder) / str(number), share, [*quiet, *noted, *options], paths))
            while any(one.runs() for one in started):
                time.sleep(0.5)
                for one in started:
                    one.show()
        finally:
            for one in started:
                one.interrupt()
            deadline = time.monotonic() + CLEAN_UP_S
            statuses = [one.wait(deadline) for one in started]
            for one in started:
                one.show()
            if junit:
                broken = {f"run {n}": one.text() for n, one in enumerate(started, 1) if not one.closed()}
                documents = [path.read_bytes() for path in sorted(Path(folder).glob("*.xml"))]
                write(junit, merged(documents, broken))
        sys.stdout.write(f"{closing([one.text() for one in started], began)}\n")
        sys.stdout.flush()
    return set(statuses) <= {_WELL, _NO_TEST} and _WELL in statuses


def closing(outputs: Sequence[str], began: float) -> str:
    """pytest's closing line for several runs: the sum of theirs. A run that closed with none counts as an error.

    All runs collect the same tests and leave out the same, which is counted once.
    """
    counts: Counter[str] = Counter()
    for output in outputs:
        lines = _CLOSING.findall(output)
        if not lines:
            counts["error"] += 1
            continue
        for number, outcome in _COUNT.findall(lines[-1]):
            word = outcome.removesuffix("s") if outcome in ("warnings", "errors") else outcome
            counts[word] = max(counts[word], int(number)) if word == "deselected" else counts[word] + int(number)
    return f" {in_words(counts)} in {time.monotonic() - began:.2f}s ".center(100, "=")

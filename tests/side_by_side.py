"""Runs parts of the tests at once, as most of them wait for others; and closes as one run of pytest does."""

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

ROOT = Path(__file__).resolve().parent.parent
# What needs Docker and images, and what makes network namespaces, do not meet.
PARTS = (("tests/cluster", "tests/unit"), ("tests/kernel",))
_CLOSING = re.compile(r"^=+ (?P<counts>.*\d+ \w+.*) in [\d.]+s.*=+$", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (failed|passed|skipped|deselected|xfailed|xpassed|warnings?|errors?)")
# In pytest's own order.
_WORDS = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warning", "error")


def run(options: Sequence[str]) -> bool:
    """Run all parts with these options of pytest; whether every one is well. Output of the first is shown as it comes.

    Interrupted, it interrupts them, once, and waits until each has cleaned up: a Ctrl-C of the terminal does not reach
    them by itself.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="overlayd-tests-") as folder:
        outputs = [Path(folder) / str(number) for number in range(len(PARTS))]
        running: list[subprocess.Popen[bytes]] = []
        try:
            for part, output in zip(PARTS, outputs, strict=True):
                running.append(_start(part, options, output))
            for process, output in zip(running, outputs, strict=True):
                shown = 0
                while process.poll() is None:
                    time.sleep(0.5)
                    shown = _show(output, shown)
                _show(output, shown)
        finally:
            for process in running:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
            for process in running:
                process.wait()
        sys.stdout.write(f"{closing([output.read_text(errors='replace') for output in outputs], began)}\n")
        sys.stdout.flush()
    return all(process.returncode == 0 for process in running)


def closing(outputs: Sequence[str], began: float) -> str:
    """pytest's closing line for several runs: the sum of theirs. A run that closed with none counts as an error."""
    counts: Counter[str] = Counter()
    for output in outputs:
        lines = _CLOSING.findall(output)
        if not lines:
            counts["error"] += 1
            continue
        for number, word in _COUNT.findall(lines[-1]):
            counts[word.removesuffix("s") if word in ("warnings", "errors") else word] += int(number)
    words = [f"{counts[word]} {_plural(word, counts[word])}" for word in _WORDS if counts[word]]
    text = f" {', '.join(words) or 'no tests ran'} in {time.monotonic() - began:.2f}s "
    return text.center(100, "=")


def _plural(word: str, count: int) -> str:
    return f"{word}s" if word in ("warning", "error") and count != 1 else word


def _start(part: Sequence[str], options: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "pytest", *options, *part]
    sys.stdout.write(f"{shlex.join(argv[1:])}\n")
    with output.open("wb") as out:
        return subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)


def _show(output: Path, shown: int) -> int:
    """Print what an output has beyond `shown` bytes; how many it has."""
    with output.open("rb") as file:
        file.seek(shown)
        more = file.read()
    sys.stdout.write(more.decode(errors="replace"))
    sys.stdout.flush()
    return shown + len(more)

"""`invoke bench` and `invoke bench-builds` measure."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task
from rich.console import Console

from images.engine import dockerd, preflight
from overlayd.backends import load
from pipeline.image_tasks import build_all
from tests.perf import build, history, report, wanted
from tests.perf.bench import bench
from tests.perf.compare import marked
from tests.perf.measuring import PACE, Pace
from tests.perf.wanted import BACKENDS, PARTS
from tests.testbed.cluster import options
from tests.testbed.cluster.docker_engine import newest_base

ROOT = Path(__file__).resolve().parents[2]
_console = Console(width=None if sys.stdout.isatty() else 140)


@task(
    name="bench",
    help={
        "only": f"parts, comma separated: {', '.join(PARTS)} (default: all)",
        "backends": "comma separated",
        "repeat": "how often everything is measured (default: 3)",
        "seconds": "length of a TCP flow (default: 2)",
        "base": "base image (default: that of the host image built last)",
        "builds": "measure builds from nothing, too, which takes minutes (default: yes)",
    },
)
def run_bench(
    c: Context,
    *,
    only: str = "",
    backends: str = ",".join(BACKENDS),
    repeat: str = "3",
    seconds: str = "2",
    base: str | None = None,
    builds: bool = True,
) -> None:
    """Measure backends and peers as parts of the underlay, our daemon's cost, and builds; build/bench/bench.json.

    What is more than 20 % worse than in the last report of this machine is marked.
    """
    pace = Pace(repeat=options.whole_number("repeat", repeat), flow_s=options.whole_number("seconds", seconds))
    names, parts = tuple(backends.split(",")), list(wanted.parts(only))
    for name in names:
        # With an unknown backend every host would wait for ever.
        load(name)
    if not builds and "builds" in parts:
        parts.remove("builds")
    preflight.check()
    with dockerd.running():
        document = _measure(c, base, parts=parts, backends=names, pace=pace)
        if "builds" in parts:
            # Kept before: whoever has no time for builds has the other figures.
            _keep({**document, "parts": [part for part in document["parts"] if part != "builds"]})
            document["builds"] = build.measure(str(document["machine"]["base"]), _say)
    path = _keep(document)
    report.show(_console, document)
    _say(f"figures: {path.relative_to(ROOT)}")


@task(name="bench-builds", help={"base": "base image (default: that of the host image built last)"})
def run_bench_builds(c: Context, base: str | None = None) -> None:
    """Measure only builds, of the last commit, in their own clone and dockerd; build/bench/builds.json."""
    preflight.check()
    if base is None:
        with dockerd.running():
            base = newest_base()
    found = build.measure(base, _say)
    path = _write(ROOT / "build" / "bench" / "builds.json", json.dumps(found, indent=1) + "\n")
    report.show_builds(_console, found)
    _say(f"figures: {path.relative_to(ROOT)}")


def _measure(
    c: Context, base: str | None, *, parts: Sequence[str] = PARTS, backends: Sequence[str] = BACKENDS, pace: Pace = PACE
) -> dict[str, Any]:
    """The bench's document, compared with the last report."""
    began = time.monotonic()
    build_all(c, base=base)
    built = time.monotonic() - began
    base = base or newest_base()
    document = bench(base, _say, only=parts, backends=backends, pace=pace)
    document["make_up_s"] = {"build-all, with what was already built": round(built, 2)}
    return document


def _keep(document: dict[str, Any]) -> Path:
    """Compare a document with the last report of this machine, and keep it; its file."""
    build_folder = ROOT / "build"
    before, path = history.last(build_folder, document) or (None, None)
    return history.keep(build_folder / "bench", marked(document, before, str(path.relative_to(ROOT)) if path else ""))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.half")
    half.write_text(text)
    half.rename(path)
    return path


def _say(text: str) -> None:
    _console.print(text, highlight=False, soft_wrap=True, markup=False)


namespace = Collection(run_bench, run_bench_builds)

"""`invoke nightly` runs all tests and the bench and makes one page of them; `invoke nightly.page` makes it again."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from images.engine import preflight
from images.engine.progress import report
from overlayd.errors import OverlaydError
from tests.nightly import night
from tests.testbed.cluster import options


@task(
    name="all",
    default=True,
    help={
        "only": "paths or pytest options (default: all tests)",
        "within": f"minutes for all of it; parts that take longer are cut off (default: {night.WITHIN_MIN})",
        "bench": "measure, too (default: yes)",
        "build": "build what is missing, too (default: yes)",
    },
)
def run_all(
    c: Context, only: str = "", within: str = str(night.WITHIN_MIN), bench: bool = True, build: bool = True
) -> None:
    """Build, run every test and the bench, within 80 minutes; build/nightly/index.html tells of it."""
    minutes = options.whole_number("within", within)
    preflight.check()
    wanted = night.parts_of(only, minutes * 60, bench=bench, build=build)
    _close(night.run(wanted, night.FOLDER, report, selection=only))


@task(name="page", help={"results": "folder with night.json, junit.xml and bench.json (default: build/nightly)"})
def make_page(c: Context, results: str = str(night.FOLDER)) -> None:
    """Make the page of a night again from its results, and run nothing."""
    try:
        _close(night.render(Path(results)))
    except OSError as error:
        raise OverlaydError(f"{error.filename or results}: {error.strerror}", hint="see df, and who owns it") from error


def _close(closed: night.Closed) -> None:
    report(f"page: {closed.page}")
    sys.stdout.write(f"{closed.line}\n")
    sys.stdout.flush()
    if not closed.well:
        # The line has told it.
        raise Exit("", code=1)


namespace = Collection("nightly", run_all, make_page)

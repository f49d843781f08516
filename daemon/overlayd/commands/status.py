"""`overlayd status`: the daemon's status, as it last wrote it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from overlayd.commands.command import Command, Verb
from overlayd.commands.output import print_line
from overlayd.commands.status_report import DEAD, document, report
from overlayd.monitoring import status_file
from overlayd.monitoring.readiness import is_ready
from overlayd.monitoring.state import Status
from overlayd.settings import Settings

INTERVALS_S = (0.1, 3600.0)


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Print the daemon's status; 0 when it is ready, as /readyz sees it, else 1. With --watch, again and again."""
    if options.watch is not None:
        # A terminal is needed for nothing else.
        from overlayd.commands import status_watch  # noqa: PLC0415

        return status_watch.watch(lambda: look(settings.run_dir), interval_s=options.watch, as_json=options.json)
    found = look(settings.run_dir)
    if options.json:
        print_line(json.dumps(document(found), indent=2))
    else:
        for line in report(found, now_s=time.time()):
            print_line(line)
    return 0 if is_ready(found) else 1


def look(run_dir: Path) -> Status:
    """The status that the daemon wrote last; `dead` where the daemon is gone. Raises OverlaydError: there is none."""
    found = status_file.read(run_dir)
    if not status_file.alive(found) and found.state != "stopped":
        return dataclasses.replace(found, state=DEAD, problem="it ended without a word; the data path stays as it is")
    return found


def _interval(text: str) -> float:
    low, high = INTERVALS_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not low <= seconds <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: seconds from {low:g} to {high:g}")
    return seconds


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as one JSON document")
    parser.add_argument(
        "--watch",
        type=_interval,
        nargs="?",
        const=1.0,
        metavar="SECONDS",
        help="look again every SECONDS (default: 1) and show what changes, until q or Ctrl-C; in a pipe, and with "
        "--json as a document a line, each change is printed once",
    )


COMMAND = Command(
    place=30,
    does=Verb(
        name="status",
        help="show the lease, the peers, etcd and what is wrong; exit status 1 when not ready",
        manual="What the daemon last said of itself. Everybody may read it. The exit status is 0 when the daemon is "
        "ready and nothing is wrong. CONTAINERS is what echoes from a container here to one of the peer came to. "
        "`--watch` goes on while the daemon is away or starts again, and shows the peers with problems first; it ends "
        "with status 0 by `q` or Ctrl-C.",
        needs_root=None,
        needs_etcd=False,
        run=main,
        add_flags=_add_flags,
        without_settings=True,
    ),
)

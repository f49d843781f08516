"""`overlayd doctor`: what would stop packets on this host, and the command that mends it."""

from __future__ import annotations

import argparse
import json
import os

from overlayd import settings as settings_module
from overlayd.commands.command import Command, Verb
from overlayd.commands.output import print_line
from overlayd.doctor.checks import examine
from overlayd.doctor.finding import document, lines, problems
from overlayd.doctor.gather.collect import collect
from overlayd.settings import Settings


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Print what every check found; 1 if anything stops packets, else 0. Changes nothing."""
    file = settings_module.config_file(vars(options), os.environ)
    unreadable = f"only root may read {file}" if file.exists() and not os.access(file, os.R_OK) else None
    sections = examine(collect(settings, settings_problem=unreadable, arp=not options.no_arp))
    if options.json:
        print_line(json.dumps(document(sections), indent=2))
    else:
        for line in lines(sections):
            print_line(line)
    return 1 if any(problems(findings) for _title, findings in sections) else 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as one JSON document")
    parser.add_argument(
        "--no-arp", action="store_true", help="do not ask the underlay whether another host has this host's address"
    )


COMMAND = Command(
    place=40,
    does=Verb(
        name="doctor",
        help="find out what would stop packets here, and the command that mends it; change nothing",
        manual="",
        needs_root=None,
        needs_etcd=False,
        run=main,
        add_flags=_add_flags,
        without_settings=True,
    ),
)

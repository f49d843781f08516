"""`overlayd doctor`: what would stop packets on this host, and the command that mends it."""

from __future__ import annotations

import argparse
import json
import os

from overlayd import settings as settings_module
from overlayd.commands.output import print_line
from overlayd.doctor.checks import examine
from overlayd.doctor.finding import document, lines, problems
from overlayd.doctor.gather import gather
from overlayd.settings import Settings


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Print what every check found; 1 if anything stops packets, else 0. Changes nothing."""
    file = settings_module.config_file(vars(options), os.environ)
    unreadable = f"only root may read {file}" if file.exists() and not os.access(file, os.R_OK) else None
    sections = examine(gather(settings, settings_problem=unreadable, arp=not options.no_arp))
    if options.json:
        print_line(json.dumps(document(sections), indent=2))
    else:
        for line in lines(sections):
            print_line(line)
    return 1 if any(problems(findings) for _title, findings in sections) else 0

"""`overlayd run`: be the daemon."""

from __future__ import annotations

import argparse

from overlayd import daemon
from overlayd.lib import slim_imports
from overlayd.settings import Settings


def main(settings: Settings, _options: argparse.Namespace) -> int:
    """Be the daemon until told to stop."""
    slim_imports.share_one_heap()
    daemon.run(settings)
    return 0

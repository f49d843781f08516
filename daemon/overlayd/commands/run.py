"""`overlayd run`: be the daemon."""

from __future__ import annotations

import argparse

from overlayd.commands.command import Command, Verb
from overlayd.lib import slim_imports
from overlayd.settings import Settings


def main(settings: Settings, _options: argparse.Namespace) -> int:
    """Be the daemon until told to stop."""
    # Nearly all of the program: the help text of all commands should not wait for it.
    from overlayd import daemon  # noqa: PLC0415

    slim_imports.share_one_heap()
    daemon.run(settings)
    return 0


COMMAND = Command(
    place=10,
    does=Verb(
        name="run",
        help="be the daemon: lease a subnet, keep the data path, until told to stop",
        manual="overlayd.service runs this. It waits for etcd, for a network config and for a free subnet as long as "
        "it takes, and goes on with what it has while etcd is away. Stopped, it leaves the data path in place.",
        needs_root="changes the host's network",
        needs_etcd=True,
        run=main,
    ),
)

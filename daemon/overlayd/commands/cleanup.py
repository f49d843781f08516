"""`overlayd cleanup`: remove everything of overlayd from this host."""

from __future__ import annotations

import argparse
from functools import partial

from overlayd import firewall, firewalld
from overlayd.backends import undo
from overlayd.backends.allowed_commands import AllowedCommands
from overlayd.commands.command import Command, Verb
from overlayd.commands.output import print_line
from overlayd.docker.options import DOCKER_ENV, RECORD
from overlayd.errors import BusyError, OverlaydError
from overlayd.host import other_networks
from overlayd.kernel import attached, netlink
from overlayd.lib import hostlock
from overlayd.lib.marks import ours
from overlayd.lib.ownership import require_ours
from overlayd.monitoring import status_file
from overlayd.settings import Settings


def main(settings: Settings, _options: argparse.Namespace) -> int:
    """Remove everything of overlayd from the kernel and the run directory. The lease stays, until etcd ends it."""
    try:
        # A daemon that starts meanwhile waits for the lock, so that its rules are not removed.
        with hostlock.hold():
            return _clean(settings)
    except BusyError as error:
        raise BusyError(
            f"overlayd is running and would put everything back: {error.message}",
            hint=f"systemctl stop {ours().unit}, then again",
        ) from None


def _clean(settings: Settings) -> int:
    require_ours(settings.run_dir, "run-dir")
    undone = partial(undo.cleanup, settings.run_dir, AllowedCommands(folder=settings.extension_commands))
    failures: list[str] = []
    # The data path goes before the rules that keep strangers out of it.
    for what in (attached.cleanup, undone, netlink.cleanup, firewalld.cleanup, firewall.cleanup, other_networks.forget):
        try:
            for line in what():
                print_line(f"removed {line}")
        except OverlaydError as error:
            failures.append(str(error))
    for path in (
        settings.run_dir / DOCKER_ENV,
        settings.run_dir / RECORD,
        settings.subnet_env,
        settings.run_dir / status_file.FILE,
        settings.run_dir / status_file.REACH_FILE,
        # Of overlayd 0.1.
        settings.run_dir / "lock",
    ):
        if path.exists():
            path.unlink()
            print_line(f"removed {path}")
    if failures:
        raise OverlaydError("not everything could be removed:\n" + "\n".join(failures))
    return 0


COMMAND = Command(
    place=60,
    does=Verb(
        name="cleanup",
        help="remove every route, device, rule and file of overlayd from this host",
        manual="For a host that leaves the network, also after a crash; stop overlayd first. The lease in etcd ends "
        "by itself.",
        needs_root="changes the host's network",
        needs_etcd=False,
        run=main,
    ),
)

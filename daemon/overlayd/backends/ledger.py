"""A record of what the extension backend's commands have done on this host since it booted.

It is a file in run-dir, as the kernel does not say what a command made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from overlayd.backends.commands import Commands, HostVariables, PeerRecord
from overlayd.errors import OverlaydError
from overlayd.lib.files import read_json, write_atomically
from overlayd.lib.ownership import open_to_others
from overlayd.lib.quick_dataclass import dataclass

FILE = "extension.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Ledger:
    """What was done by which commands, and so has to be undone.

    `started` is what PreStartupCommand printed, None before it was run. `own` are the variables that PostStartupCommand
    was run with.
    """

    commands: Commands = field(default_factory=Commands)
    started: str | None = None
    own: Mapping[str, str] | None = None
    peers: dict[str, PeerRecord] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to undo."""
        return self.started is None and self.own is None and not self.peers


def read(run_dir: Path) -> Ledger:
    """The ledger of this boot; an empty one if there is none, or none that can be read. Never raises.

    It names commands that are run as root, so a file that somebody beside root may have written is not read.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        if open_to_others(run_dir / FILE):
            return Ledger()
        found: dict[str, Any] = read_json(run_dir / FILE)
        # What the commands made in the kernel is gone after a reboot, even if run-dir is not.
        if found["boot_id"] == _boot_id():
            return Ledger(
                commands=Commands(**found["commands"]),
                started=found["started"],
                own=found["own"],
                peers={
                    peer: PeerRecord(host=HostVariables(**record["told"]), settled=record["settled"])
                    for peer, record in found["peers"].items()
                },
            )
    return Ledger()


def write(run_dir: Path, ledger: Ledger) -> None:
    """Write the ledger in one step; the file of an empty one is deleted. Raises OverlaydError when the disk refuses."""
    path = run_dir / FILE
    try:
        if ledger.empty:
            path.unlink(missing_ok=True)
        else:
            peers = {
                peer: {"told": dataclasses.asdict(record.host), "settled": record.settled}
                for peer, record in ledger.peers.items()
            }
            document = {"boot_id": _boot_id(), **dataclasses.asdict(ledger), "peers": peers}
            write_atomically(path, f"{json.dumps(document)}\n", mode=0o600)
    except OSError as error:
        raise OverlaydError(f"what the extension's commands did cannot be recorded: {error}") from error


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""

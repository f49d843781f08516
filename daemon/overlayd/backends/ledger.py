"""What the extension backend's commands have done on this host since it booted: a file, as no kernel can be asked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overlayd.backends.commands import Commands, HostVariables, PeerRecord
from overlayd.errors import OverlaydError
from overlayd.lib.files import read_json, write_atomically
from overlayd.lib.ownership import open_to_others

FILE = "extension.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Ledger:
    """What was done, by which commands, and so what has to be undone.

    `started` is what PreStartupCommand printed, None before it was run; `own` the variables PostStartupCommand was run
    with.
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

    It names commands, so one that somebody beside root may have written is none.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        if open_to_others(run_dir / FILE):
            return Ledger()
        found: dict[str, Any] = read_json(run_dir / FILE)
        # What a kernel held goes with it, also where run-dir outlives it.
        if found["boot_id"] == _boot_id():
            return Ledger(
                commands=Commands(**found["commands"]),
                started=found["started"],
                own=found["own"],
                peers={
                    peer: PeerRecord(host=HostVariables(**entry["told"]), settled=entry["settled"])
                    for peer, entry in found["peers"].items()
                },
            )
    return Ledger()


def write(run_dir: Path, ledger: Ledger) -> None:
    """Put the ledger down, in one step; an empty one is no file. Raises OverlaydError when the disk refuses."""
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
        raise OverlaydError(f"cannot note what the extension's commands did: {error}") from error


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""

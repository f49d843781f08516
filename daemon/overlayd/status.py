"""What the daemon says of itself: one document in the run directory, replaced whole on every change."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlayd import __version__
from overlayd.errors import OverlaydError
from overlayd.files import write_atomically

FILE = "status.json"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One other host: what it holds and where it is, in IPv4 and IPv6.

    `path` says in a word how packets reach it; `problem` is None where they do, as far as this kernel goes.
    """

    subnet: str | None
    public_ip: str | None
    subnet6: str | None = None
    public_ip6: str | None = None
    backend: str
    path: str | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """The daemon's state as of the last change. `state` is one of the words below; `problem` says what it waits for.

    `starting`, `waiting` (for etcd, the network config or a free subnet), `ready`, `stopped`.
    """

    state: str
    pid: int
    version: str = __version__
    problem: str | None = None
    network: str | None = None
    subnet: str | None = None
    subnet6: str | None = None
    reserved: bool = False
    backend: str | None = None
    mtu_bytes: int | None = None
    ifname: str | None = None
    ifname_reason: str | None = None
    public_ip: str | None = None
    public_ip6: str | None = None
    etcd_endpoints: tuple[str, ...] = ()
    etcd_connected: bool = False
    etcd_problem: str | None = None
    etcd_revision: int = 0
    firewall: str | None = None
    docker_problems: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()


class Board:
    """Where the daemon pins up its status. An unchanged status is not written again."""

    def __init__(self, run_dir: Path, status: Status) -> None:
        self._path = run_dir / FILE
        self.status = status

    def update(self, **changes: Any) -> None:
        """Change some fields and write the whole. A full disk is no reason to stop carrying packets: never raises."""
        self.status = dataclasses.replace(self.status, **changes)
        try:
            write_atomically(self._path, json.dumps(dataclasses.asdict(self.status), indent=1) + "\n")
        except OSError:
            return


def read(run_dir: Path) -> Status:
    """The last status that a daemon wrote. Raises OverlaydError where there is none."""
    path = run_dir / FILE
    try:
        found = json.loads(path.read_text())
        found["peers"] = tuple(Peer(**peer) for peer in found["peers"])
        found["skipped"] = tuple((key, problem) for key, problem in found["skipped"])
        for name in ("etcd_endpoints", "docker_problems", "problems"):
            found[name] = tuple(found[name])
        return Status(**found)
    except FileNotFoundError:
        raise OverlaydError(
            f"no daemon has run on this host: {path} is not there", hint="systemctl start overlayd"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OverlaydError(f"{path} cannot be read: {error}") from error

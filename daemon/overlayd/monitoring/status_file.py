"""The daemon's status as a JSON file in the run directory, replaced on every change."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from overlayd.errors import OverlaydError
from overlayd.lib.files import read_json, write_atomically
from overlayd.lib.kept import identity
from overlayd.lib.log import logger
from overlayd.monitoring.state import Peer, Reach, Status

log = logger("status")

__all__ = ["FILE", "Peer", "Reach", "Status", "StatusFile", "alive", "begun_at", "read", "runs"]

FILE = "status.json"
REACH_FILE = "reach.json"
_PROC = Path("/proc")


class StatusFile:
    """The daemon's status, and the file with it. An unchanged status is not written again."""

    def __init__(self, run_dir: Path, status: Status) -> None:
        self._path = run_dir / FILE
        self._unwritten: str | None = None
        self._written: tuple[int, ...] | None = None
        self.status = status

    def update(self, **changes: Any) -> None:
        """Change some fields, and write the file. A full disk is no reason to stop carrying packets: never raises."""
        status = dataclasses.replace(self.status, **changes)
        # With thousands of peers it takes long to compose; and somebody may have removed or changed the file.
        if status == self.status and self._written is not None and self._written == identity(self._path):
            return
        self.status = status
        written = self._write(self._path, _as_object(dataclasses.replace(self.status, reach=())))
        self._written = identity(self._path) if written else None

    def update_reach(self, found: tuple[Reach, ...]) -> None:
        """Change what is known of the way to each peer, in a file of its own. Never raises."""
        if found == self.status.reach:
            return
        self.status = dataclasses.replace(self.status, reach=found)
        self._write(self._path.with_name(REACH_FILE), _as_list(found))

    def _write(self, path: Path, text: str) -> bool:
        """Write a file, and log when that begins to fail, and when it works again; whether it was written."""
        try:
            write_atomically(path, text + "\n")
        except OSError as error:
            if self._unwritten is None:
                log.warning("the status cannot be written: commands show an older one", problem=str(error))
                self._unwritten = path.name
            return False
        # The other file may still have no room.
        if self._unwritten == path.name:
            log.info("the status can be written again", path=str(path))
            self._unwritten = None
        return True


# A field or a peer on each line: json.dumps with an indent takes ten times as long, and there may be many peers.
# One call for all of them is four times as fast as one for each. The separator is in no text: JSON escapes it.
_SEPARATOR = "\x1e"
_MANY = json.JSONEncoder(separators=(f",{_SEPARATOR}", ": "))


def _as_object(status: Status) -> str:
    lines = [f" {json.dumps(name)}: {_value(value)}" for name, value in vars(status).items()]
    return "\n".join(("{", ",\n".join(lines), "}"))


def _value(value: object) -> str:
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value[:1])):
        return _as_list(value)
    return json.dumps(value)


def _as_list(objects: Iterable[object]) -> str:
    text = _MANY.encode([vars(one) for one in objects])[1:-1]
    return "\n".join(("[", "  " + text.replace(f"}},{_SEPARATOR}", "},\n  ").replace(_SEPARATOR, " "), " ]"))


def read(run_dir: Path) -> Status:
    """The last status that a daemon wrote. Raises OverlaydError where there is none."""
    path = run_dir / FILE
    try:
        found = read_json(path)
        # It may be of a daemon of another version: fields that this version does not know are left out.
        known = _known(Status, found)
        known["peers"] = tuple(Peer(**_known(Peer, peer)) for peer in found["peers"])
        known["skipped"] = tuple((key, problem) for key, problem in found["skipped"])
        for name in ("etcd_endpoints", "docker_problems", "problems"):
            known[name] = tuple(found[name])
        # A daemon of version 0.1 did not write these.
        known["warnings"] = tuple(found.get("warnings", ()))
        known["unreached"] = tuple(found.get("unreached", ()))
        known["fast_paths"] = tuple(found.get("fast_paths", ()))
        known["reach"] = _read_reach(run_dir / REACH_FILE)
        return Status(**known)
    except FileNotFoundError:
        raise OverlaydError(
            f"no daemon has run on this host: {path} is not there", hint="systemctl start overlayd"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OverlaydError(f"{path} cannot be read: {error}") from error


def _read_reach(path: Path) -> tuple[Reach, ...]:
    """What was last known of the way to each peer; nothing where the file is not there, or of another version."""
    try:
        return tuple(Reach(**_known(Reach, one)) for one in read_json(path))
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def runs(run_dir: Path) -> bool:
    """Whether the daemon of this run directory runs, judged by its status file. Every user may call this."""
    try:
        return alive(read(run_dir))
    except OverlaydError:
        return False


def alive(status: Status) -> bool:
    """Whether the process that wrote a status still runs: one of that number, begun at that time."""
    try:
        if status.pid <= 0:
            return False
        os.kill(status.pid, 0)
    except PermissionError:
        # The process is there, and another user's.
        pass
    except (ProcessLookupError, OverflowError, TypeError):
        return False
    state, begun = _process(status.pid)
    # `begun` is None where /proc shows users their own processes only; a daemon of 0.1 did not write when it began.
    return state not in ("Z", "X") and (begun is None or status.pid_begun is None or begun == status.pid_begun)


def begun_at() -> int | None:
    """When this process began: clock ticks since boot."""
    return _process(os.getpid())[1]


def _process(pid: int) -> tuple[str, int | None]:
    try:
        # proc_pid_stat(5). The name, which may have any characters, ends at the last parenthesis.
        words = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return words[0], int(words[19])
    except (OSError, IndexError, ValueError):
        return "", None


def _known(kind: type[Peer] | type[Status] | type[Reach], found: dict[str, Any]) -> dict[str, Any]:
    return {field.name: found[field.name] for field in dataclasses.fields(kind) if field.name in found}

"""Checks etcd's data folder: can etcd write it, does no other etcd use it, and is it this member's?"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from etcd_container import settings as words
from etcd_container.problem import Problem

# The size of etcd's first log file, which it fills with zeros when it starts.
_FIRST_LOG_BYTES = 64 * 1000 * 1000
# Record types of etcd's log (server/wal), and the fields of its metadata.
_METADATA = 1
_NODE_ID, _CLUSTER_ID = 1, 2


class Identity(NamedTuple):
    """Which member of which cluster data belongs to, by the ids that etcd gave them."""

    member: int
    cluster: int


def check(settings: Mapping[str, str]) -> list[Problem]:
    """The problems that would stop etcd from using the folder."""
    return list(_check(settings, Path(settings.get("ETCD_DATA_DIR", words.DATA))))


def _check(settings: Mapping[str, str], data: Path) -> Iterator[Problem]:
    there = next(folder for folder in (data, *data.parents) if folder.exists())
    refused = _unwritable(there)
    if refused:
        yield refused
        return
    if there != data and (there / "member").is_dir():
        what = f"{there} has etcd's data in it, and ETCD_DATA_DIR is {data}"
        yield Problem(what, f"set ETCD_DATA_DIR={there}, or move its folder member/ to {data}/")
        return
    for file in sorted((data / "member").rglob("*")) if (data / "member").is_dir() else ():
        if not os.access(file, os.R_OK | os.W_OK):
            yield _not_ours(file)
            return
    if locked(data):
        what = f"another etcd uses {data}"
        yield Problem(what, "one volume is one member's: stop the other container, or give this one its own volume")
        return
    if not has_data(data):
        left = os.statvfs(there)
        if left.f_bavail * left.f_frsize < _FIRST_LOG_BYTES:
            megabytes = left.f_bavail * left.f_frsize // 1_000_000
            yield Problem(f"{there} has {megabytes} MB left, and etcd begins with a log of 64 MB", "make room there")
        return
    yield from _compare(settings, data)


def _unwritable(folder: Path) -> Problem | None:
    if not folder.is_dir():
        return Problem(f"ETCD_DATA_DIR: {folder} is no folder", "mount a volume there, not a file")
    if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return None
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        what = f"{folder} is read-only"
        return Problem(what, f"mount a volume: -v NAME:{words.VOLUME}, without :ro")
    return _not_ours(folder)


def _not_ours(path: Path) -> Problem:
    user, group, found = os.geteuid(), os.getegid(), path.stat()
    what = f"etcd runs as user {user} and group {group}, and {path} belongs to {found.st_uid}:{found.st_gid}"
    return Problem(
        f"{what}, mode {found.st_mode & 0o7777:04o}",
        f"on the host: chown -R {user}:{group} FOLDER; with SELinux also :Z behind the volume; for a named volume: "
        f"docker run --rm --user root -v NAME:{words.VOLUME} IMAGE chown -R {user}:{group} {words.VOLUME}",
    )


def locked(data: Path) -> bool:
    """Whether a running etcd has locked the database: a second etcd would wait for it without saying so."""
    try:
        with (data / "member/snap/db").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    return False


def has_data(data: Path) -> bool:
    """Whether etcd has run with this folder before: its log is there, which etcd itself goes by."""
    return any(data.glob("member/wal/*.wal"))


def identity(data: Path) -> Identity | None:
    """The member and cluster that data belongs to, from the oldest log file; None when that cannot be read."""
    logs = sorted(data.glob("member/wal/*.wal"))
    try:
        with logs[0].open("rb") as file:
            return parse_identity(file.read(4096))
    except (IndexError, OSError, ValueError):
        return None


def parse_identity(head: bytes) -> Identity | None:
    """The metadata at the head of a log file: frames of a length, a record, and its padding. Raises ValueError."""
    at = 0
    while at + 8 <= len(head):
        length = int.from_bytes(head[at : at + 8], "little", signed=False)
        size, padding = length & ((1 << 56) - 1), ((length >> 56) & 7) if length >> 63 else 0
        if size == 0:
            return None
        record = _fields(head[at + 8 : at + 8 + size])
        if record.get(1) == _METADATA:
            found = _fields(record.get(3, b""))
            member, cluster = found.get(_NODE_ID), found.get(_CLUSTER_ID)
            return Identity(member, cluster) if isinstance(member, int) and isinstance(cluster, int) else None
        at += 8 + size + padding
    return None


def _fields(message: object) -> dict[int, object]:
    """The fields of a protobuf message that are numbers or bytes. Raises ValueError."""
    found: dict[int, object] = {}
    if not isinstance(message, bytes):
        raise ValueError("a record without data")
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 0:
            found[tag >> 3] = value
        elif tag & 7 == 2:
            found[tag >> 3] = message[at : at + value]
            at += value
        else:
            raise ValueError("a field of a type that etcd's log does not use")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError("a number without an end")
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not message[at - 1] & 0x80:
            return value, at


def record(data: Path) -> Path:
    """Our own record of the member's name: only etcd itself can read it from its data."""
    return data.with_name(f"{data.name}.member")


def _ours(settings: Mapping[str, str]) -> dict[str, str]:
    return {
        "ETCD_NAME": settings.get("ETCD_NAME", ""),
        "ETCD_INITIAL_CLUSTER_TOKEN": settings.get("ETCD_INITIAL_CLUSTER_TOKEN", "etcd-cluster"),
    }


def _compare(settings: Mapping[str, str], data: Path) -> Iterator[Problem]:
    try:
        noted = json.loads(record(data).read_text())
    except (OSError, ValueError):
        return
    for name, value in _ours(settings).items():
        if isinstance(noted, dict) and noted.get(name, value) != value:
            what = f"{data} was begun with {name}={noted[name]}, and {name} is {value} now"
            yield Problem(what, f"mount this member's own volume; if it is to be so, remove {record(data)}")


def note(settings: Mapping[str, str]) -> None:
    """Record the member's name for the next start. Where the file cannot be written there is no record."""
    if "ETCD_CONFIG_FILE" in settings:
        return
    try:
        _write(record(Path(settings.get("ETCD_DATA_DIR", words.DATA))), _ours(settings))
    except OSError:
        return


def _write(path: Path, document: Mapping[str, object]) -> None:
    """Write a record in one step. Raises OSError."""
    half = path.with_name(f".{path.name}.half")
    half.write_text(json.dumps(document, indent=1) + "\n")
    half.replace(path)


def record_of_users(data: Path) -> Path:
    """Our own record that the users were made in these data: etcd tells it only while it runs."""
    return data.with_name(f"{data.name}.users")


def note_users(data: Path, made: Mapping[str, str]) -> None:
    """Record that the users `made` were made in these data. Raises OSError."""
    found, path = identity(data), record_of_users(data)
    _write(path, {**made, "cluster": found.cluster if found else None})


def has_users(data: Path, made: Mapping[str, str]) -> bool:
    """Whether `note_users` recorded the same users of the same cluster."""
    found = identity(data)
    try:
        noted = json.loads(record_of_users(data).read_text())
    except (OSError, ValueError):
        return False
    return found is not None and noted == {**made, "cluster": found.cluster}

"""Layers of images as tars that hold nothing of when and where they were made.

The same files give the same bytes.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from images.engine import process
from images.engine.process import Stop

# Kinds of change as Docker's API numbers them.
_DELETED = 2
# The one attribute of a file that a layer keeps beside mode, owner and time of change: its capabilities.
_KEPT_ATTRIBUTES = "SCHILY.xattr.security.capability"
# Mounted while a container runs: what a runtime leaves there is no part of the image.
_NOT_OURS = ("/dev/", "/proc/", "/sys/", "/run/", "/tmp/")
# Names of files by which a layer removes what a lower one has (image-spec, layer.md): a file, or all of a folder.
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


def of_folder(root: Path, to: Path, *, epoch: int, log: IO[bytes], stop: Stop) -> None:
    """Write a root filesystem as one layer: sorted, owners as numbers, with capabilities, no time after `epoch`."""
    process.run(
        [
            *("tar", "--create", f"--file={to}", "--sort=name", "--numeric-owner", "--format=posix"),
            *(f"--mtime=@{epoch}", "--clamp-mtime", "--pax-option=delete=atime,delete=ctime"),
            *("--xattrs", "--xattrs-include=security.capability", f"--directory={root}", "."),
        ],
        log=log,
        stop=stop,
    )


def of_changes(changes: Iterable[Mapping[str, Any]], exported: IO[bytes], to: Path, *, epoch: int, stop: Stop) -> None:
    """Write what a container changed as a layer. `changes` is Docker's list, `exported` the tar of all its files.

    The layer has the order of the export, which is that of names. Deleted files are named by whiteouts (image-spec,
    layer.md) at the end. No time is after `epoch`.
    """
    ours = {c["Path"]: c["Kind"] for c in changes if not f"{c['Path']}/".startswith(_NOT_OURS)}
    wanted = {path.lstrip("/") for path, kind in ours.items() if kind != _DELETED}
    deleted = {path.lstrip("/") for path, kind in ours.items() if kind == _DELETED}
    replaced = set()
    with (
        tarfile.open(fileobj=exported, mode="r|", errorlevel=2) as source,
        tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in source:
            stop.check()
            if entry.name in deleted:
                replaced.add(entry.name)
            elif entry.name not in wanted:
                continue
            tar.addfile(_plain(entry, epoch), source.extractfile(entry) if entry.isreg() else None)
        for path in sorted(deleted):
            folder, _, name = path.rpartition("/")
            whiteout = f"{path}/{OPAQUE}" if path in replaced else f"{folder}/{WHITEOUT}{name}".lstrip("/")
            mark = tarfile.TarInfo(whiteout)
            mark.mtime = epoch
            tar.addfile(mark)


def unpack(layer: Path, root: Path, *, log: IO[bytes], stop: Stop) -> None:
    """Write the files of a layer into a root filesystem that has those of the layers below it, and remove what it
    removes.
    """
    left_out = root.with_name(f"{root.name}.whiteouts")
    with tarfile.open(layer, "r:") as tar:
        names = [entry.name for entry in tar if entry.name.rpartition("/")[2].startswith(WHITEOUT)]
    for name in names:
        folder, _, mark = name.rpartition("/")
        for path in (root / folder).iterdir() if mark == OPAQUE else [root / folder / mark.removeprefix(WHITEOUT)]:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    left_out.write_text("".join(f"{name}\n" for name in names))
    process.run(
        [
            *("tar", "--extract", f"--file={layer}", f"--directory={root}", "--numeric-owner", "--same-permissions"),
            *("--xattrs", "--xattrs-include=security.capability", f"--exclude-from={left_out}", "--no-wildcards"),
        ],
        log=log,
        stop=stop,
    )
    left_out.unlink()


def _plain(entry: tarfile.TarInfo, epoch: int) -> tarfile.TarInfo:
    entry.uname = entry.gname = ""
    entry.mtime = min(int(entry.mtime), epoch)
    entry.pax_headers = {k: v for k, v in entry.pax_headers.items() if k == _KEPT_ATTRIBUTES}
    return entry

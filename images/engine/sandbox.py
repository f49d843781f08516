"""Runs a command that works on a root filesystem so that neither processes nor mounts of it are left.

The command gets mount and process namespaces of its own: its mounts are visible to nobody else, and when it ends, is
killed, or this process is killed, the kernel ends all its children and removes all its mounts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from images.engine import process
from images.engine.errors import BuildError

# What scriptlets in the new root may use. When containers run, Docker and systemd make their devices.
_DEVICES = "null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0"

_PREPARE = f"""
root=$1; shift
mkdir -p "$root/dev" "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mount -t proc proc "$root/proc"
for device in {_DEVICES}; do
    IFS=: read -r name major minor <<END
$device
END
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
ln -s /proc/self/fd "$root/dev/fd"
exec "$@"
"""


def isolated(argv: Sequence[str | Path]) -> list[str | Path]:
    """The command to run another one in namespaces of its own, which the kernel ends when its parent ends."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"),
        *argv,
    ]


def with_devices(root: Path, argv: Sequence[str | Path]) -> list[str | Path]:
    """The same with /proc and a few devices mounted in `root` while the command runs."""
    return isolated(["sh", "-euc", _PREPARE, "sh", root, *argv])


def inside(root: Path, argv: Sequence[str | Path]) -> list[str | Path]:
    """The same, and the command has `root` as its root filesystem."""
    return with_devices(root, ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "chroot", root, *argv])


def require_root_user() -> None:
    """Raises BuildError unless the user is root: a root filesystem has files of many owners."""
    if os.geteuid() != 0:
        raise BuildError(
            "a root filesystem can only be made by root", hint="run the same command as root, or with sudo"
        )


def require(*programs: str) -> None:
    """Raises BuildError that names those of the programs which this machine lacks."""
    missing = [program for program in programs if shutil.which(program, path=process.PATH) is None]
    if missing:
        raise BuildError(f"not installed here: {', '.join(missing)}", hint="`make system` installs what is missing")

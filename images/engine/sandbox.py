"""Runs a command that works on a root filesystem so that nothing of it can stay behind.

The command gets mount and process namespaces of its own: nobody else sees what it mounts, and when it ends, or is
killed, or we are killed, the kernel ends all its children and drops all its mounts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from images.engine import process
from images.engine.errors import BuildError

# A scriptlet in the new root may want these; on the finished root they are Docker's and systemd's business.
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
    """The command in namespaces of its own, ended by the kernel when its parent ends."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"),
        *argv,
    ]


def with_devices(root: Path, argv: Sequence[str | Path]) -> list[str | Path]:
    """The command in namespaces of its own, with /proc and the plain devices mounted in `root` while it runs."""
    return isolated(["sh", "-euc", _PREPARE, "sh", root, *argv])


def inside(root: Path, argv: Sequence[str | Path]) -> list[str | Path]:
    """The command run with `root` as its root filesystem."""
    return with_devices(root, ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "chroot", root, *argv])


def require_root_user() -> None:
    """Raises BuildError for anybody but root: a root filesystem has files of many owners."""
    if os.geteuid() != 0:
        raise BuildError(
            "a root filesystem can only be made by root", hint="run the same command as root, or with sudo"
        )


def require(*programs: str) -> None:
    """Raises BuildError naming the programs that this machine lacks."""
    missing = [program for program in programs if shutil.which(program, path=process.PATH) is None]
    if missing:
        raise BuildError(f"not installed here: {', '.join(missing)}", hint="`make system` installs what is missing")

"""Packages that a running machine gets on top of its disk: NetworkManager, and a server of DHCP.

The users' disk has neither. They come out of a root filesystem of the same suite (roots), as files: what its
packages' scripts would do is done here. A second disk is plugged in for it, as ssh to an emulated machine is slow.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from images.bases.debian.dpkg import merged
from tests.testbed.cluster import roots
from tests.testbed.cluster.roots import DebianRoot
from tests.testbed.cluster.virtual_machine import VirtualMachine
from tests.testbed.polling import eventually

_PACKAGES = ("network-manager", "dnsmasq-base")
_LEFT_OUT = re.compile(r"/(dev|proc|sys|run|tmp|boot)/.*|/var/lib/(dpkg|apt)/.*|/etc/(apt|rc.\.d|init\.d)/.*")
_PLUGGED_S = 60.0


def of(suite: str) -> DebianRoot:
    """The additions of a suite of Debian."""
    return DebianRoot(suite=suite, packages=_PACKAGES)


def install(machine: VirtualMachine, release: DebianRoot) -> None:
    """Put the files of a root filesystem on a machine that it does not have yet; nothing new is started."""
    root = roots.cached(release)
    there = set(machine.output_of("find", "/", "-xdev", "-printf", "/%P\\n").splitlines())
    archive = machine.folder / "additions.tar"
    _pack(root, there, archive)
    # Blocks of this size are read from a disk; what is not there reads as an end.
    with archive.open("ab") as file:
        file.truncate(-(-archive.stat().st_size // 4096) * 4096)
    machine.tell(f"drive_add 0 if=none,id=additions,file={archive},format=raw,readonly=on")
    machine.tell("device_add virtio-blk-pci,drive=additions,id=additions,serial=additions")
    device = "/dev/disk/by-id/virtio-additions"
    eventually("the disk is plugged in", lambda: machine.succeeds("test", "-b", device), timeout_s=_PLUGGED_S)
    machine.run("tar", "-C", "/", "--keep-directory-symlink", "-xf", device)
    machine.tell("device_del additions")
    machine.shell("ldconfig; systemctl daemon-reload; systemctl reload dbus; udevadm control --reload; sync")


def _pack(root: Path, there: set[str], to: Path) -> None:
    """Write what `there` lacks; paths are as on disk, below /usr where a package says /bin."""
    with tarfile.open(to, "w") as tar:
        for path in sorted(root.rglob("*")):
            inside = merged(f"/{path.relative_to(root)}")
            if inside in there or _LEFT_OUT.fullmatch(inside):
                continue
            there.add(inside)
            tar.add(path, arcname=inside.removeprefix("/"), recursive=False)

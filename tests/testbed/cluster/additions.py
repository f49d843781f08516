"""Disks of machines with more packages than the users' disk: firewalld, NetworkManager, SELinux with Debian's policy.

A disk is made once for a base, below build/machines: the files of a root filesystem of the same suite (roots) are put
on a copy of the base's disk, and every file gets the label that the policy names. What else the packages' scripts would
do is done here, or is not needed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from images.bases.debian.dpkg import merged
from images.engine import sandbox
from images.engine.place import PLACE
from images.machine import recipe
from overlayd.lib import process
from tests.testbed.cluster import roots
from tests.testbed.cluster.roots import DebianRoot

POLICY = "default"
# The words for the kernel by which a machine of such a disk boots with SELinux enforcing.
ENFORCING = "security=selinux selinux=1 enforcing=1"
FOLDER = recipe.FOLDER / "with-additions"
_PACKAGES = (
    *("network-manager", "firewalld", "dnsmasq-base"),
    *("selinux-policy-default", "selinux-utils", "policycoreutils"),
)
# What selinux-policy-default's postinst does. Without root's home in passwd the policy would not label /root.
_COMPILE = f"""\
grep -qs ^root: /etc/passwd || echo root:x:0:0:root:/root:/bin/bash >/etc/passwd
printf 'SELINUX=permissive\\nSELINUXTYPE={POLICY}\\n' >/etc/selinux/config
modules=
for module in $(cat /usr/share/selinux/{POLICY}/.modules); do
    modules="$modules -i/usr/share/selinux/{POLICY}/$module.pp.bz2"
done
semodule -X 100 -n -s {POLICY} $modules
"""
_LEFT_OUT = re.compile(
    r"/(dev|proc|sys|run|tmp|boot)/.*|/var/lib/(dpkg|apt)/.*|/etc/(apt|rc.\.d|init\.d)/.*|/usr/share/selinux/.*"
)
_LIST = 'mount -o "$1" "$2" "$3" && find "$3" -xdev -printf "/%P\\n"'
# setfiles writes labels by /proc/self/fd. Without /proc/mounts it leaves out no file system of this kernel, which may
# have no SELinux.
_FILL = f"""\
mount -o "$1" "$2" "$3"
tar -C "$3" --keep-directory-symlink -xf "$4"
chroot "$3" ldconfig
mount -t tmpfs tmpfs "$3/proc"
mkdir "$3/proc/real"
mount -t proc proc "$3/proc/real"
ln -s real/self "$3/proc/self"
chroot "$3" setfiles -F /etc/selinux/{POLICY}/contexts/files/file_contexts /
umount --recursive "$3"
"""
_MADE_S = 600.0


def disk(base: str, suite: str) -> Path:
    """The disk of a base with the additions of its suite, made now where it is not there; below the build folder.

    The base's own disk must have been built. Raises OverlaydError, and roots.NoSuchRelease. Interrupted, it leaves no
    disk; one whose inputs changed goes.
    """
    root = roots.cached(DebianRoot(suite=suite, packages=_PACKAGES, finish=_COMPILE))
    inputs = json.dumps([(PLACE.build / recipe.facts(base)).read_text(), root.name, _FILL, _LEFT_OUT.pattern])
    found = FOLDER / f"{base}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}.qcow2"
    if not (PLACE.build / found).exists():
        (PLACE.build / FOLDER).mkdir(parents=True, exist_ok=True)
        for old in (PLACE.build / FOLDER).glob(f"{base}-*.qcow2"):
            old.unlink()
        # What a killed run left has no final name; it goes with the next one.
        for old in (PLACE.build / FOLDER).glob(".making-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=PLACE.build / FOLDER, prefix=".making-") as folder:
            _make(PLACE.build / recipe.disk(base), root, Path(folder)).rename(PLACE.build / found)
    return found


def _make(below: Path, root: Path, folder: Path) -> Path:
    raw, archive, mounted = folder / "disk.raw", folder / "additions.tar", folder / "mounted"
    made = folder / "disk.qcow2"
    mounted.mkdir()
    process.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(below), str(raw)], timeout_s=_MADE_S)
    where: list[str | Path] = [f"loop,offset={recipe.ROOT_OFFSET_BYTES}", raw, mounted]
    there = set(_isolated(_LIST, *where).splitlines())
    _pack(root, there, archive)
    _isolated(_FILL, *where, archive)
    process.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(made)], timeout_s=_MADE_S)
    return made


def _isolated(script: str, *words: str | Path) -> str:
    """Run a script whose mounts, and their loop devices, end with it."""
    argv = sandbox.isolated(["sh", "-euc", script, "sh", *words])
    return process.run([str(word) for word in argv], timeout_s=_MADE_S)


def _pack(root: Path, there: set[str], to: Path) -> None:
    """Write what `there` lacks; paths are as on disk, below /usr where a package says /bin."""
    with tarfile.open(to, "w") as tar:
        for path in sorted(root.rglob("*")):
            inside = merged(f"/{path.relative_to(root)}")
            if inside in there or _LEFT_OUT.fullmatch(inside):
                continue
            there.add(inside)
            tar.add(path, arcname=inside.removeprefix("/"), recursive=False)

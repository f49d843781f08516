"""A disk image (qcow2) of a machine that is a Docker host with overlayd: the files of overlayd/host, and a kernel.

It boots by itself, on BIOS by syslinux and on UEFI by systemd-boot, which read the same partition.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from images.base import recipe as system
from images.bases import catalogue, dnf
from images.bases.base import Base
from images.bases.product import Product, image_target
from images.engine import layers, sandbox
from images.engine import target as targets
from images.engine.errors import BuildError
from images.engine.graph import Target
from images.engine.step import Step
from images.machine import kernels
from images.machine.kernels import Kernel

NAME = image_target("machine")
FOLDER = Path("machines")
FILES = Path("images/machine/files")

_MIB = 1 << 20
# What the disk has room for; the file has only what is written. Numbers in MiB.
_BOOT_MB, _ROOT_MB = 128, 16 << 10
_ROOT_AT_MB = 1 + _BOOT_MB
# Where in the disk the root filesystem begins.
ROOT_OFFSET_BYTES = _ROOT_AT_MB * _MIB
_DISK_MB = _ROOT_AT_MB + _ROOT_MB + 1
# An MBR, as BIOSes and UEFI both read it. The first partition is FAT: of type EF for UEFI, active for a BIOS.
_PARTITIONS = f"""\
label: dos
label-id: 0x6f766c79
unit: sectors
start={_MIB // 512}, size={_BOOT_MB * _MIB // 512}, type=ef, bootable
start={_ROOT_AT_MB * _MIB // 512}, size={_ROOT_MB * _MIB // 512}, type=83
"""
# The last console becomes /dev/console, where the initramfs and systemd report. Debian's kernel switches AppArmor on,
# and a docker that finds it so starts no container without apparmor_parser, a program that this image does not have.
# An emulated processor on a busy computer gets no time for a while: the kernel's check of its timer would fail, which
# is a panic; and sshd, which makes its keys when it first starts, would be ended after 90 s and begin again, for ever.
COMMAND_LINE = (
    "root=LABEL=overlayd-root rw apparmor=0 no_timer_check systemd.default_timeout_start_sec=900"
    " console=tty0 console=ttyS0,115200"
)
_SYSLINUX = f"""\
default overlayd
prompt 0
timeout 1
serial 0 115200
label overlayd
  linux /vmlinuz
  initrd /initrd
  append {COMMAND_LINE}
"""
_LOADER = "default overlayd.conf\ntimeout 0\neditor no\n"
_ENTRY = f"title overlayd\nlinux /vmlinuz\ninitrd /initrd\noptions {COMMAND_LINE}\n"
_SYSLINUX_MBR = Path("/usr/lib/SYSLINUX/mbr.bin")
_SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
LOADERS = (_SYSLINUX_MBR, _SYSTEMD_BOOT)
"""The files of this machine that become part of a disk."""

# Of the units that a container must not have (images.base.recipe), a machine neither has use for these.
_STILL_MASKED = frozenset(
    (
        *("console-getty.service", "systemd-firstboot.service", "systemd-hwdb-update.service"),
        *("dnf-makecache.timer", "dnf-makecache.service", "e2scrub_all.timer", "e2scrub_reap.service"),
    )
)
_ENABLED = (
    *("machine-root.service", "machine-settings.service"),
    *("systemd-networkd.service", "systemd-networkd-wait-online.service"),
)
_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def disk(base: str) -> Path:
    """The disk image of a base, by its name; below the build folder."""
    return FOLDER / f"overlayd-host-{base}.qcow2"


def kernel_suite(base: str) -> str:
    """The suite of the kernel that a base's disk has."""
    return catalogue.get(base).kernel


def facts(base: str) -> Path:
    """A JSON object beside it: `host`, the ID of the image whose files it has, and `kernel`, its kernel's release."""
    return disk(base).with_suffix(".json")


def _targets(base: Base) -> tuple[Target, ...]:
    if not base.kernel:
        return ()

    def build(step: Step) -> None:
        _make(step, base)

    image = targets.target(
        name=NAME,
        build=build,
        code=[Path(__file__)],
        values={
            **base.installing,
            **{"packages": base.packages["machine"], "kernel": base.kernel, "masked": sorted(_STILL_MASKED)},
            **{"partitions": _PARTITIONS, "syslinux": _SYSLINUX, "loader": (_LOADER, _ENTRY), "enabled": _ENABLED},
        },
        tools=("dnf", "rpm", "mkfs.ext4", "mcopy", "syslinux", "qemu-img"),
        files=(FILES,),
        needs=(image_target("host"), base.repository_target, kernels.target_of(base.kernel)),
        outputs=(disk(base.name), facts(base.name)),
        facts=facts(base.name),
    )
    return (*kernels.kernel_targets(base), image)


def _make(step: Step, base: Base) -> None:
    sandbox.require("sfdisk", "mkfs.ext4", "mkfs.fat", "mcopy", "syslinux", "qemu-img", "dnf", "unshare", "setpriv")
    for file in LOADERS:
        if not file.exists():
            raise BuildError(f"not installed here: {file}", hint="`make system` installs what is missing")
    host = step.layout.image(base.tag("host"))
    if host is None:
        raise BuildError(f"the image {base.tag('host')} is not in the layout", hint="invoke images.host")
    kernel = Kernel(step.build / kernels.folder(base.kernel))
    root = step.scratch / "root"
    root.mkdir(mode=0o755)
    for layer in host.layers:
        layers.unpack(step.layout.blob(layer.digest), root, log=step.log, stop=step.stop)
    dnf.add_to_root(step, base, root, base.packages["machine"])
    _prepare(step, base, root)
    shutil.copytree(kernel.tree, root / "usr/lib/modules", symlinks=True, dirs_exist_ok=True)
    raw = step.scratch / "disk.raw"
    _make_disk(step, root, kernel, raw)
    step.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, step.output(disk(base.name))])
    step.write_facts({"host": host.id, "kernel": kernel.release})


def _prepare(step: Step, base: Base, root: Path) -> None:
    """Make the root filesystem of a container one of a machine."""
    # By it systemd would take a machine for a container.
    (root / ".dockerenv").unlink(missing_ok=True)
    units = root / "etc/systemd/system"
    for name in system.MASKED:
        if name not in _STILL_MASKED:
            (units / name).unlink(missing_ok=True)
    system.copy_files(step.checkout / FILES, root)
    (root / "etc/hosts").write_text(_HOSTS)
    step.run(sandbox.inside(root, ["systemctl", "enable", *_ENABLED]))
    # Files of the build, and none that says when it was.
    system.clean(root, base)
    (root / "etc/hostname").write_text("overlayd\n")
    for path in root.rglob("*"):
        if path.lstat().st_mtime > step.epoch:
            os.utime(path, (step.epoch, step.epoch), follow_symlinks=False)


def _make_disk(step: Step, root: Path, kernel: Kernel, raw: Path) -> None:
    """Write the disk: its partitions, the file systems in them, and what BIOSes and UEFI start."""
    with raw.open("wb") as file:
        file.truncate(_DISK_MB * _MIB)
    table = step.scratch / "partitions"
    table.write_text(_PARTITIONS)
    with table.open("rb") as stdin:
        step.run(["sfdisk", "--quiet", "--no-tell-kernel", "--no-reread", raw], stdin=stdin)
    with raw.open("r+b") as file:
        file.write(_SYSLINUX_MBR.read_bytes())
    boot = step.scratch / "boot"
    for path, text in (
        ("syslinux/syslinux.cfg", _SYSLINUX),
        ("loader/loader.conf", _LOADER),
        ("loader/entries/overlayd.conf", _ENTRY),
    ):
        (boot / path).parent.mkdir(parents=True, exist_ok=True)
        (boot / path).write_text(text)
    (boot / "EFI/BOOT").mkdir(parents=True)
    shutil.copyfile(_SYSTEMD_BOOT, boot / "EFI/BOOT/BOOTX64.EFI")
    shutil.copyfile(kernel.image, boot / "vmlinuz")
    shutil.copyfile(kernel.initramfs, boot / "initrd")
    for each in boot.rglob("*"):
        os.utime(each, (step.epoch, step.epoch))
    fat = step.scratch / "boot.fat"
    with fat.open("wb") as file:
        file.truncate(_BOOT_MB * _MIB)
    dated = {"SOURCE_DATE_EPOCH": str(step.epoch)}
    sectors = str(_MIB // 512)
    step.run(["mkfs.fat", "-F", "32", "-n", "OVLBOOT", "-i", "6f766c79", "-h", sectors, fat], env=dated)
    step.run(["mcopy", "-s", "-m", "-i", fat, *sorted(boot.iterdir()), "::/"], env=dated)
    step.run(["syslinux", "--install", "--directory", "syslinux", fat], env=dated)
    step.run(["dd", f"if={fat}", f"of={raw}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"])
    kernels.make_ext4(step, root, raw, label="overlayd-root", megabytes=_ROOT_MB, offset=ROOT_OFFSET_BYTES)


def _reason(base: Base) -> str | None:
    return None if base.kernel else "a disk with EL's own kernel is not made yet, only with Debian's (images/machine)"


PRODUCT = Product(name=NAME, roles=("builder", "docker", "machine"), targets=_targets, reason=_reason, container=False)

"""Debian's kernels for virtual machines (`linux-image-cloud-amd64`), fetched with apt and its keys, and made bootable.

Of a suite there are two targets. The first fetches the packages of its kernel and of busybox, which the initramfs is
made with. The second makes files that QEMU boots: the kernel, an initramfs, and a file system with all modules, which
the initramfs mounts at /usr/lib/modules. So any of these kernels boots the disk of any base.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from images.bases.base import Base
from images.bases.debian import sources
from images.engine import process, sandbox
from images.engine import target as targets
from images.engine.errors import BuildCommandFailed, BuildError
from images.engine.graph import CACHE, EPOCH, Target
from images.engine.step import Step

# By the version that people name, the suites of Debian that have it.
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
BOOT = Path("images/machine/boot")
_PACKAGES = ("linux-image-cloud-amd64", "busybox-static")
_APT_S = 20
# Drivers of disks on the hypervisors that people have, and the file systems of a disk with settings. What a machine
# needs of them is found by what its devices say (modalias); what is compiled into the kernel is no module.
_MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "ahci", "ata_piix", "ata_generic"),
    *(
        "nvme",
        "hv_storvsc",
        "hv_vmbus",
        "vmw_pvscsi",
        "xen-blkfront",
        "ext4",
        "isofs",
        "vfat",
        "nls_ascii",
        "nls_cp437",
    ),
    *("virtio_rng", "usbhid", "hid-generic", "hyperv-keyboard"),
)


def target_of(suite: str) -> str:
    """The name of the target that makes a suite's kernel bootable."""
    return f"images.machine.linux-{suite}"


def folder(suite: str) -> Path:
    """The folder with what that target makes, below the build folder."""
    return Path("machines") / f"linux-{suite}"


def _fetched(suite: str) -> Path:
    return CACHE / "machines" / f"linux-{suite}"


def _facts(suite: str) -> Path:
    return CACHE / "machines" / f"linux-{suite}.json"


@dataclass(frozen=True)
class Kernel:
    """Files of a kernel that a machine boots; `modules` is an ext4 with the label overlayd-modules."""

    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initrd"

    @property
    def modules(self) -> Path:
        return self.folder / "modules.img"

    @property
    def tree(self) -> Path:
        """The modules as files: a folder named as the kernel's release."""
        return self.folder / "modules"

    @property
    def release(self) -> str:
        """What `uname -r` says where it runs."""
        [path] = self.tree.iterdir()
        return path.name


def kernel_targets(base: Base) -> tuple[Target, ...]:
    """The targets of every suite's kernel: the same for each base, but for mirrors that were given for it."""
    return tuple(
        target
        for suite in sorted({*SUITES.values(), base.kernel})
        for target in (_fetch(base, suite), _boot(base, suite))
    )


def _fetch(base: Base, suite: str) -> Target:
    def build(step: Step) -> None:
        fetch(step, base, suite, step.output(_fetched(suite)))

    return targets.target(
        name=f"{target_of(suite)}.packages",
        build=build,
        code=[Path(__file__)],
        values={"packages": _PACKAGES, "suite": suite},
        outputs=(_fetched(suite), _facts(suite)),
        facts=_facts(suite),
        network=True,
    )


def fetch(step: Step, base: Base, suite: str, to: Path) -> None:
    """Fetch the packages of a suite's kernel and unpack them into `to`. Raises BuildError.

    apt gets folders of its own, so that it neither reads nor changes what this machine has; it believes Debian's keys.
    """
    sandbox.require("apt-get", "dpkg-deb")
    home = step.scratch / "apt"
    for name in ("lists/partial", "archives/partial", "etc", "debs"):
        (home / name).mkdir(parents=True)
    (home / "status").write_text("")
    lines = _lines(base, suite)
    (home / "sources.list").write_text("".join(f"{line}\n" for line in lines))
    options = [
        *(f"Dir::Etc={home}/etc", f"Dir::Etc::sourcelist={home}/sources.list", f"Dir::State::lists={home}/lists"),
        *(f"Dir::State::status={home}/status", f"Dir::Cache={home}", f"Dir::Cache::archives={home}/archives"),
        *("APT::Architecture=amd64", "APT::Install-Recommends=false", "Acquire::Languages=none"),
        # Only some of the fields are read. A snapshot's lists may be old.
        *("Acquire::Check-Valid-Until=false", f"Acquire::http::Timeout={_APT_S}", f"Acquire::https::Timeout={_APT_S}"),
        *("Acquire::Retries=2", "APT::Sandbox::User=root"),
    ]
    apt = ["apt-get", "--quiet", *(word for option in options for word in ("-o", option))]
    try:
        step.run([*apt, "-o", "APT::Update::Error-Mode=any", "update"])
    except BuildCommandFailed as error:
        raise BuildError(
            f"the lists of Debian's {suite} cannot be fetched: {error.message}",
            hint="the machine's Debian mirror has to have that suite; --mirror debian=URL names another",
        ) from error
    cache = ["apt-cache", *(word for option in options for word in ("-o", option))]
    names = [_newest_of(cache, name) for name in _PACKAGES]
    if missing := [package for package, name in zip(_PACKAGES, names, strict=True) if name is None]:
        raise BuildError(
            f"Debian's {suite} has no package {', '.join(missing)} (any more)",
            hint="boot another kernel: --kernel; or name a mirror that still has it: --mirror debian=URL",
        )
    step.run([*apt, "download", *(str(name) for name in names)], cwd=home / "debs")
    facts = {}
    for deb in sorted((home / "debs").glob("*.deb")):
        step.run(["dpkg-deb", "--extract", deb, to])
        name, version, _ = deb.stem.split("_")
        facts[f"package {name}"] = version
    release = _release(to)
    step.write_facts({**facts, "kernel": release, EPOCH: str(int((to / f"boot/vmlinuz-{release}").stat().st_mtime))})


def _lines(base: Base, suite: str) -> list[str]:
    """Lines of sources.list for a suite: those of this machine (or of a mirror that was given) with its name."""
    return [line.replace("deb ", f"deb [signed-by={sources.KEYRING}] ", 1) for line in sources.lines_of(suite, base)]


def _newest_of(cache: list[str], package: str) -> str | None:
    """The package itself, or the one that it leads to: `linux-image-cloud-amd64` has no file."""
    try:
        text = process.capture([*cache, "show", "--no-all-versions", package], base_env=os.environ)
    except BuildCommandFailed:
        return None
    fields = dict(line.split(": ", 1) for line in text.splitlines() if line[:1].isalpha() and ": " in line)
    leads = [word for word in fields.get("Depends", "").replace(",", " ").split() if word.startswith("linux-image-")]
    return leads[0] if package.startswith("linux-image") and leads else package


def _release(unpacked: Path) -> str:
    return next((unpacked / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")


def _boot(base: Base, suite: str) -> Target:
    def build(step: Step) -> None:
        fetched = {name: step.build / _fetched(name) for name in (suite, base.kernel)}
        make_bootable(step, fetched[suite], step.output(folder(suite)), busybox=fetched[base.kernel])

    return targets.target(
        name=target_of(suite),
        build=build,
        code=[Path(__file__)],
        values={"modules": _MODULES},
        files=(BOOT,),
        tools=("cpio", "mkfs.ext4"),
        # busybox is that of the base's own suite: bullseye's has no findfs.
        needs=tuple(f"{target_of(name)}.packages" for name in dict.fromkeys((suite, base.kernel))),
        outputs=(folder(suite),),
    )


def make_bootable(step: Step, unpacked: Path, to: Path, *, busybox: Path) -> None:
    """Make what `Kernel` names from unpacked packages, and busybox out of others."""
    sandbox.require("cpio", "depmod", "mkfs.ext4", "xz", "gzip")
    release, kernel = _release(unpacked), Kernel(to)
    to.mkdir()
    shutil.copyfile(unpacked / f"boot/vmlinuz-{release}", kernel.image)
    # depmod wants the modules where a root filesystem has them.
    tree = step.scratch / "tree"
    place = tree / "lib/modules" / release
    place.parent.mkdir(parents=True)
    source = next(path for path in (unpacked / "lib/modules", unpacked / "usr/lib/modules") if path.is_dir())
    shutil.copytree(source / release, place, symlinks=True)
    for link in ("build", "source"):
        (place / link).unlink(missing_ok=True)
    step.run(["depmod", "--basedir", tree, release])
    place.parent.rename(kernel.tree)
    make_ext4(step, kernel.tree, kernel.modules, label="overlayd-modules", megabytes=_megabytes(kernel.tree) + 16)
    _make_initramfs(step, busybox, kernel, release)


def _make_initramfs(step: Step, with_busybox: Path, kernel: Kernel, release: str) -> None:
    root = step.scratch / "initramfs"
    for name in ("bin", "dev", "proc", "sys", "root", f"lib/modules/{release}"):
        (root / name).mkdir(parents=True)
    there = (with_busybox / place / "busybox" for place in ("bin", "usr/bin"))
    busybox = next(path for path in there if path.exists())
    shutil.copy2(busybox, root / "bin/busybox")
    shutil.copy2(step.checkout / BOOT / "init", root / "init")
    source, place = kernel.tree / release, root / "lib/modules" / release
    for path in _needed(source / "modules.dep"):
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, file)
        if file.suffix == ".xz":
            step.run(["xz", "--decompress", file])
    for name in ("modules.builtin", "modules.order"):
        shutil.copyfile(source / name, place / name)
    step.run(["depmod", "--basedir", root, release])
    for each in (root, *root.rglob("*")):
        os.utime(each, (step.epoch, step.epoch), follow_symlinks=False)
    script = (
        'cd "$1" && find . | LC_ALL=C sort | cpio --quiet --create --format=newc --reproducible --owner=0:0 |'
        ' gzip --no-name -6 >"$2"'
    )
    step.run(["sh", "-euc", script, "sh", root, kernel.initramfs])


def _needed(modules_dep: Path) -> list[str]:
    """The files of _MODULES and of what they need, as paths below the folder of modules.dep."""
    needs = {}
    for line in modules_dep.read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    wanted = {name.replace("-", "_") for name in _MODULES}
    found = [path for path in needs if Path(path).name.partition(".")[0].replace("-", "_") in wanted]
    return sorted({*found, *(need for path in found for need in needs[path])})


def _megabytes(tree: Path) -> int:
    return sum(path.lstat().st_size // 4096 * 4096 + 4096 for path in tree.rglob("*")) >> 20


def make_ext4(step: Step, source: Path, to: Path, *, label: str, megabytes: int, offset: int = 0) -> None:
    """Write a file system with the files of a folder, whose owners it keeps, at an offset in bytes of a file."""
    # Its identity and its times are given, so that the same files make the same bytes.
    identity = "00000000-0000-4000-8000-6f7665726c61"
    options = f"offset={offset},hash_seed={identity},lazy_itable_init=1,root_owner=0:0"
    step.run(
        [
            *("mkfs.ext4", "-q", "-F", "-m", "0", "-L", label, "-U", identity, "-d", source, "-E", options, to),
            f"{megabytes}M",
        ],
        env={"SOURCE_DATE_EPOCH": str(step.epoch), "E2FSPROGS_FAKE_TIME": str(step.epoch)},
    )

"""A host that is a virtual machine: its disk, its settings, its power. `steps/virtual_hosts` makes them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from images.engine import lock
from images.engine.place import PLACE
from images.machine import recipe
from images.machine.kernels import Kernel
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.lib import process
from tests.testbed.cluster import qemu
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.ssh import Ssh
from tests.testbed.polling import eventually

MEMORY_MB = 1024
# What a machine writes to its disk until its containers run, with room for what a test does.
DISK_MB = 1024
STATES = PLACE.build / recipe.FOLDER / "running"
# On a quiet machine two boot in a minute; among other work each of them takes ten.
_BOOTS_S = 900.0
_ENDS_S = 300.0
_SETTINGS_MB = 8
_IFUP = '#!/bin/sh\nexec ip link set "$1" master {bridge} up\n'


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a machine's state is: `folder` in the checkout that made it; `short` for sockets, whose paths are short.

    Below `short`'s folder every checkout of this user finds the machines of a cluster.
    """

    folder: Path
    short: Path

    @property
    def tap(self) -> str:
        """The name of its network device here, which goes with QEMU."""
        return f"vm{hashlib.sha256(str(self.short).encode()).hexdigest()[:10]}"

    @property
    def monitor(self) -> Path:
        """The socket of QEMU's monitor."""
        return self.short.with_suffix(".monitor")


class VirtualTransport:
    """ssh to a machine, and what its state folder tells of it (transport.Transport)."""

    def __init__(self, place: Place, ssh: Ssh) -> None:
        """Values only."""
        self.place = place
        self.ssh = ssh

    def run(self, argv: Sequence[str]) -> str:
        """See Transport."""
        return self.ssh.run(argv)

    def login(self) -> list[str]:
        """See Transport."""
        return self.ssh.argv("-t")

    def typed(self, command: str) -> str:
        """See Transport."""
        return f"{' '.join(self.ssh.argv())} {command}"

    def state(self) -> str:
        """See Transport."""
        return "running" if qemu.running(self.place.folder) else "off"

    def image(self) -> str | None:
        """See Transport."""
        try:
            found: str = json.loads((self.place.folder / "disk.json").read_text())["host"]
        except (OSError, ValueError, KeyError):
            return None
        return found

    def console(self) -> str:
        """See Transport."""
        return (self.place.folder / "console.log").read_text(errors="replace")


class VirtualMachine(Machine):
    """A host with a kernel, a disk and a boot of its own."""

    # Emulated, and beside others: what takes a container one second takes it ten.
    patience_s = 600.0

    def __init__(self, name: str, address: IPv4Address, transport: VirtualTransport) -> None:
        """Values only."""
        super().__init__(name, address, transport)
        self._transport = transport

    @property
    def folder(self) -> Path:
        """The folder with its disk, its settings and its console's log."""
        return self._transport.place.folder

    @property
    def record(self) -> Path:
        """The file by which every checkout finds it."""
        return self._transport.place.short

    def boot(self) -> None:
        """Switch it on, with the disk as it is, and wait until commands run on it. Raises OverlaydError."""
        self.switch_on()
        self.wait_until_up()

    def switch_on(self) -> None:
        """Switch it on. Raises OverlaydError where it is on."""
        if qemu.running(self.folder):
            raise OverlaydError(f"{self.name} is on")
        self._transport.ssh.close()
        options = json.loads((self.folder / "options.json").read_text())
        qemu.start(self.folder, options, monitor=self._transport.place.monitor)

    def wait_until_up(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until commands run on it. Raises OverlaydError where it ends before, or does not come up.

        Another thread ends the wait by what `given_up` answers.
        """

        def up() -> bool:
            if given_up():
                raise OverlaydError(f"{self.name} is not waited for any more")
            if not qemu.running(self.folder):
                raise OverlaydError(f"{self.name} ended while it booted: {self._last_words()}")
            return self.succeeds("true")

        try:
            eventually(f"{self.name} boots", up, timeout_s=_BOOTS_S)
        except OverlaydError as error:
            raise OverlaydError(f"{error.message}; its console ends: {self._last_words()}") from error

    def power_cut(self) -> None:
        """Switch it off as a power cut does: nothing on it is told. Its disk has what was synced, and perhaps more."""
        qemu.kill(self.folder)
        self._transport.ssh.close()

    def reset(self) -> None:
        """Reset it as by its button: the same as a power cut, and on again; wait until commands run on it."""
        before = self.boot_id()
        qemu.tell(self._transport.place.monitor, "system_reset")
        self._transport.ssh.close()
        eventually(f"{self.name} boots again", lambda: self._booted_since(before), timeout_s=_BOOTS_S)

    def reboot(self) -> None:
        """Let it boot again in order, by its own command; wait until commands run on it."""
        before = self.boot_id()
        self.shell("systemctl reboot")
        eventually(f"{self.name} boots again", lambda: self._booted_since(before), timeout_s=_BOOTS_S + _ENDS_S)

    def at(self, address: IPv4Address) -> VirtualMachine:
        """The same machine by another of its addresses."""
        place = self._transport.place
        ssh = self._transport.ssh.to(address, place.short.with_suffix(f".{address.packed[-1]}.ssh"))
        return VirtualMachine(self.name, address, VirtualTransport(place, ssh))

    def boot_id(self) -> str:
        """The kernel's name of this boot."""
        return self.run("cat", "/proc/sys/kernel/random/boot_id").strip()

    def console(self) -> str:
        """What it wrote on its serial console, over all its boots."""
        return self._transport.console()

    def _booted_since(self, before: str) -> bool:
        try:
            return self.boot_id() != before
        except CommandFailed:
            return False

    def _last_words(self) -> str:
        lines = [line for line in self.console().splitlines() if line.strip()] if self._has_console() else []
        return "\n" + "\n".join(lines[-15:]) if lines else "it is empty"

    def _has_console(self) -> bool:
        return (self.folder / "console.log").exists()


def make_ready(
    cluster: Cluster,
    name: str,
    *,
    files: Mapping[str, bytes],
    options: Sequence[str],
    bridge: str,
    kernel: Kernel | None,
) -> VirtualMachine:
    """Write all that a machine needs below its state folder: nothing runs yet. Raises OverlaydError.

    `files` are the settings (images/machine/README.md), `options` QEMU's for processor and memory; `kernel` is one to
    boot in place of the disk's own.
    """
    machine = _machine(cluster, name, STATES / cluster.name / name)
    place = machine._transport.place
    place.folder.mkdir(parents=True)
    _record(place)
    disk = PLACE.build / (cluster.disk or recipe.disk(cluster.base))
    shutil.copyfile(PLACE.build / recipe.facts(cluster.base), place.folder / "disk.json")
    own, settings, below = (place.folder / name for name in ("disk.qcow2", "settings.img", "below.qcow2"))
    # A link of its own: a build replaces the image, and the machine's next boot needs the one that it has begun with.
    below.hardlink_to(disk)
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(below), str(own)])
    write_settings(place.folder / "settings", settings, files)
    ifup = place.folder / "ifup"
    ifup.write_text(_IFUP.format(bridge=bridge))
    ifup.chmod(0o700)
    words = [
        *options,
        # Nothing is forced onto the real disk; what the machine has synced is in this kernel's memory, and so is kept
        # when QEMU is killed.
        *("-drive", f"file={own},if=virtio,format=qcow2,cache=unsafe"),
        *("-drive", f"file={settings},if=virtio,format=raw,readonly=on"),
        *("-netdev", f"tap,id=underlay,ifname={place.tap},script={ifup},downscript=no"),
        *("-device", f"virtio-net-pci,netdev=underlay,mac={mac(machine.address)}", "-device", "virtio-rng-pci"),
    ]
    if kernel is not None:
        words += [
            *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs)),
            *("-append", f"{recipe.COMMAND_LINE} {cluster.kernel_options}".rstrip()),
        ]
        # The disk has the modules of its own kernel, and the labels of all its files.
        if kernel.release != json.loads((place.folder / "disk.json").read_text())["kernel"]:
            words += ["-drive", f"file={kernel.modules},if=virtio,format=raw,readonly=on"]
    (place.folder / "options.json").write_text(json.dumps(words))
    return machine


def write_settings(folder: Path, to: Path, files: Mapping[str, bytes]) -> None:
    """Write a disk with the label OVERLAYD with these files; `folder` is where they are gathered."""
    folder.mkdir(mode=0o700)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    process.run(["mkfs.ext4", "-q", "-F", "-L", "OVERLAYD", "-d", str(folder), str(to), f"{_SETTINGS_MB}M"])


def mac(address: IPv4Address) -> str:
    """The hardware address of a machine: one for each address, of those that anybody may give (IEEE 802)."""
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *address.packed))


def public_key(cluster: str) -> bytes:
    """The key that logs in on a cluster's machines, made now if there is none."""
    key = _key(STATES / cluster)
    if not key.exists():
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"overlayd-{cluster}", "-f", str(key)])
    return key.with_suffix(".pub").read_bytes()


def find(cluster: Cluster) -> dict[str, VirtualMachine]:
    """The machines of a cluster that were made, on or off, by name."""
    return {record.name: _machine(cluster, record.name, folder) for record, folder in records(cluster.name)}


def remove(cluster: str) -> int:
    """End the machines of a cluster, whoever made it, and remove their disks; how many that were."""
    found = records(cluster)
    for record, folder in found:
        qemu.kill(folder)
        Ssh(IPv4Address(0), Path(), record.with_suffix(".ssh")).close()
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.is_dir() and not any(path.is_dir() for path in folder.parent.iterdir()):
            shutil.rmtree(folder.parent)
    shutil.rmtree(_short(cluster), ignore_errors=True)
    shutil.rmtree(STATES / cluster, ignore_errors=True)
    return len(found)


def remove_machine(machine: VirtualMachine) -> None:
    """End one machine and remove its disk."""
    machine.power_cut()
    shutil.rmtree(machine.folder)
    machine.record.unlink()


def _machine(cluster: Cluster, name: str, folder: Path) -> VirtualMachine:
    place = Place(folder=folder, short=_short(cluster.name) / name)
    ssh = Ssh(cluster.address(name), _key(folder.parent), place.short.with_suffix(".ssh"))
    return VirtualMachine(name, cluster.address(name), VirtualTransport(place, ssh))


def _key(folder: Path) -> Path:
    return folder / "key"


def _short(cluster: str) -> Path:
    """A folder that every checkout knows; two dockerds may each have a cluster of that name."""
    whose = f"{client().info()['ID']} {cluster}"
    return lock.folder() / f"vm-{hashlib.sha256(whose.encode()).hexdigest()[:12]}"


def _record(place: Place) -> None:
    place.short.parent.mkdir(mode=0o700, exist_ok=True)
    place.short.write_text(f"{place.folder}\n")


def records(cluster: str) -> list[tuple[Path, Path]]:
    """The record of each machine of a cluster, whose name is the machine's, and the state folder that it names."""
    found = sorted(path for path in _short(cluster).glob("host*") if path.suffix == "")
    return [(path, Path(path.read_text().strip())) for path in found]

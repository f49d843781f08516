"""The disk image as people boot it: by itself, on BIOS and on UEFI, with nothing but a disk of settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from images.engine.place import PLACE
from images.machine import recipe
from images.machine.kernels import Kernel
from overlayd.errors import CommandFailed
from overlayd.lib import process
from tests.sharing import alone_in
from tests.testbed.cluster import qemu, virtual_machine
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.ssh import Ssh
from tests.testbed.cluster.steps import virtual_hosts
from tests.testbed.polling import eventually
from tests.testbed.ports import free_port

pytestmark = pytest.mark.slow

_OVMF = Path("/usr/share/OVMF")
_BOOTS_S = 900.0


@pytest.fixture(scope="module", autouse=True)
def _disk(base: str, pytestconfig: pytest.Config) -> None:
    with alone_in(pytestconfig, "builds"):
        virtual_hosts.build(Cluster(base=base, machines=True))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for one machine, which is ended afterwards."""
    yield tmp_path
    qemu.kill(tmp_path)


def _boot(folder: Path, base: str, *, settings: str, more: list[str], size: Sequence[str] = ()) -> Ssh:
    """Boot the image by itself; ssh to it. `settings` is ext4 or iso9660: a disk, or a CD. `size`: of a larger disk."""
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/key"])
    files = {"hostname": b"mine\n", "authorized_keys": (folder / "key.pub").read_bytes(), "ca.pem": b"a certificate\n"}
    files["overlayd"] = b'OVERLAYD_ETCD_ENDPOINTS="http://192.0.2.10:2379"\n'
    disk = folder / "settings"
    virtual_machine.write_settings(folder / "files", disk, files)
    if settings == "iso9660":
        process.run(["genisoimage", "-quiet", "-J", "-r", "-V", "OVERLAYD", "-o", str(disk), str(folder / "files")])
        drive = f"file={disk},media=cdrom,format=raw,readonly=on"
    else:
        drive = f"file={disk},if=virtio,format=raw,readonly=on"
    image = PLACE.build / recipe.disk(base)
    own = f"{folder}/own.qcow2"
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), own, *size])
    port = free_port()
    how = virtual_hosts.processor(Kernel(PLACE.build / virtual_hosts.kernel_folder(Cluster(base=base))))
    qemu.start(
        folder,
        [
            *(*how, "-m", "1024", "-drive", f"file={own},if=virtio,cache=unsafe", "-drive", drive),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net"),
            *more,
        ],
        monitor=folder / "monitor",
    )
    ssh = Ssh(IPv4Address("127.0.0.1"), folder / "key", folder / "control", port=port)

    def up() -> bool:
        assert qemu.running(folder), (folder / "console.log").read_text(errors="replace")
        try:
            ssh.run(["true"])
        except CommandFailed:
            return False
        return True

    eventually("ssh answers", up, timeout_s=_BOOTS_S)
    return ssh


def _has_its_settings(ssh: Ssh) -> None:
    assert ssh.run(["cat", "/proc/sys/kernel/hostname"]) == "mine\n"
    assert ssh.run(["cat", "/etc/sysconfig/overlayd"]) == 'OVERLAYD_ETCD_ENDPOINTS="http://192.0.2.10:2379"\n'
    assert ssh.run(["stat", "-c", "%a %U", "/etc/overlayd/ca.pem", "/etc/sysconfig/overlayd"]) == "600 root\n" * 2
    # Its network is DHCP's, as no other was given, and its kernel's modules are those of its own disk.
    assert "10.0.2." in ssh.run(["ip", "-4", "-oneline", "address"])
    assert ssh.run(["sh", "-c", "test -d /usr/lib/modules/$(uname -r) && modprobe wireguard && echo well"]) == "well\n"
    assert len(ssh.run(["cat", "/etc/machine-id"]).strip()) == 32
    assert ssh.run(["findmnt", "--noheadings", "--output=LABEL", "/"]).strip() == "overlayd-root"


def test_the_disk_boots_on_bios_with_settings_on_a_disk_and_its_root_takes_all_of_it(folder: Path, base: str) -> None:
    ssh = _boot(folder, base, settings="ext4", more=[], size=["20G"])
    _has_its_settings(ssh)
    # The image has 16 GiB for the root; the disk of this machine is larger.
    kib = int(ssh.run(["findmnt", "--bytes", "--noheadings", "--output=SIZE", "/"])) >> 10
    assert kib > 19 << 20
    assert "takes" in ssh.run(["journalctl", "--unit=machine-root", "--output=cat"])
    ssh.run(["systemctl", "restart", "machine-root"])
    assert "Nothing to do" in ssh.run(["journalctl", "--unit=machine-root", "--output=cat", "--lines=3"])
    assert ssh.run(["sh", "-c", "test -d /sys/firmware/efi && echo UEFI || echo BIOS"]) == "BIOS\n"


def test_the_disk_boots_on_uefi_with_settings_on_a_cd(folder: Path, base: str) -> None:
    shutil.copyfile(_OVMF / "OVMF_VARS_4M.fd", folder / "vars")
    flash = ["-drive", f"if=pflash,format=raw,readonly=on,file={_OVMF}/OVMF_CODE_4M.fd"]
    kernel = Kernel(PLACE.build / virtual_hosts.kernel_folder(Cluster(base=base)))
    # Q35's CD is on SATA, as on most hypervisors. Debian 12's kernel has a driver for the other machine's, on IDE.
    machine = "q35" if any(kernel.tree.rglob("ahci.ko*")) else "pc"
    ssh = _boot(
        folder,
        base,
        settings="iso9660",
        more=["-machine", machine, *flash, "-drive", f"if=pflash,format=raw,file={folder}/vars"],
    )
    _has_its_settings(ssh)
    assert ssh.run(["sh", "-c", "test -d /sys/firmware/efi && echo UEFI || echo BIOS"]) == "UEFI\n"

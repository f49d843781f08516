"""Step: the hosts as virtual machines, on the bridge of the cluster's Docker network."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import threading
from pathlib import Path

from images.engine.place import PLACE
from images.machine import kernels, recipe
from images.machine.kernels import Kernel
from overlayd.errors import OverlaydError
from pipeline import build as pipeline_build
from tests.testbed.cluster import plan, qemu, underlay, virtual_machine
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.virtual_machine import DISK_MB, MEMORY_MB, VirtualMachine

_MEMINFO = Path("/proc/meminfo")
# QEMU's own, beside the memory of its machine; translated code is most of it.
_OWN_MEMORY_MB = 350


def build(cluster: Cluster) -> None:
    """Build the disk image, and fetch the kernel, where they are missing or not of the present inputs."""
    require_programs()
    require_room(cluster)
    wanted = [recipe.NAME]
    if cluster.kernel:
        wanted.append(kernels.target_of(kernels.SUITES[cluster.kernel]))
    pipeline_build.build(wanted, base=cluster.base)


def require(cluster: Cluster) -> None:
    """Raise OverlaydError where this machine cannot have the cluster's machines. Nothing is made before."""
    require_programs()
    if not underlay.is_dockerd_beside_us():
        raise OverlaydError("dockerd is not in this network namespace, and machines are put on its bridge")
    for file in (recipe.disk(cluster.base), recipe.facts(cluster.base)):
        if not (PLACE.build / file).exists():
            raise OverlaydError(
                f"there is no disk image {PLACE.build / recipe.disk(cluster.base)}",
                hint=f"build it: invoke images.machine --base {cluster.base}",
            )
    if cluster.kernel and not _kernel(cluster).image.exists():
        name = kernels.target_of(kernels.SUITES[cluster.kernel])
        raise OverlaydError(
            f"kernel {cluster.kernel} is not there", hint=f"fetch it: invoke images.build --target {name}"
        )
    require_room(cluster)


def require_programs() -> None:
    """Raise OverlaydError that names a program which is missing, or root."""
    qemu.program()
    for program in ("qemu-img", "mkfs.ext4", "ssh", "ssh-keygen", "ip"):
        if shutil.which(program) is None:
            raise OverlaydError(
                f"{program} is not installed, and machines need it", hint="`make system` installs what is missing"
            )
    if os.geteuid() != 0:
        raise OverlaydError("only root can put machines on Docker's bridge", hint="run as root")


def require_room(cluster: Cluster) -> None:
    """Raise OverlaydError where there is too little memory or disk for the machines of a cluster."""
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free_mb = int(fields["MemAvailable"].split()[0]) >> 10
    needed_mb = cluster.hosts * (MEMORY_MB + _OWN_MEMORY_MB)
    if free_mb < needed_mb:
        raise OverlaydError(
            f"{cluster.hosts} machines need {needed_mb} MB of memory, and {free_mb} MB are free",
            hint="give fewer: --hosts",
        )
    place = virtual_machine.STATES if virtual_machine.STATES.exists() else PLACE.build
    free_mb, needed_mb = shutil.disk_usage(place).free >> 20, cluster.hosts * DISK_MB
    if free_mb < needed_mb:
        raise OverlaydError(
            f"{cluster.hosts} machines need {needed_mb} MB in {place}, and {free_mb} MB are free",
            hint="give fewer: --hosts",
        )


def make(site: ClusterSite) -> None:
    """Make every host of the description, and wait until each has booted."""
    accelerator = qemu.accelerator(_kernel(site.cluster))
    how = "by KVM" if accelerator == "kvm" else "emulated: KVM does not work"
    site.notes["hosts"] = f"as virtual machines, {how}"

    def start(name: str) -> VirtualMachine:
        machine = start_one(site, name)
        # Also one that does not come up is looked at, after a failure.
        site.machines[name] = machine
        machine.wait_until_up(given_up.is_set)
        return machine

    # Else each of them would make it.
    virtual_machine.public_key(site.cluster.name)
    given_up = threading.Event()
    try:
        each(start, site.cluster.host_names)
    except BaseException:
        # Python waits for threads before it ends, also where machines are left standing.
        given_up.set()
        raise


def start_one(site: ClusterSite, name: str, *, settings: dict[str, str] | None = None) -> VirtualMachine:
    """Make one host and switch it on; `settings` are more OVERLAYD_ variables for its daemon."""
    cluster = site.cluster
    machine = virtual_machine.make_ready(
        cluster,
        name,
        files=_files(site, name, settings or {}),
        options=["-machine", "pc", *processor(_kernel(cluster)), "-smp", "1", "-m", str(MEMORY_MB)],
        bridge=_bridge(cluster),
        kernel=_kernel(cluster) if cluster.kernel else None,
    )
    machine.switch_on()
    return machine


def processor(kernel: Kernel) -> list[str]:
    """QEMU's options for the processor: this machine's own where KVM works (tried with that kernel), else emulated."""
    if qemu.accelerator(kernel) == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    # Without a limit it would keep up to a gigabyte of translated code.
    return ["-accel", "tcg,tb-size=256", "-cpu", "max"]


def of(site: ClusterSite, name: str) -> VirtualMachine:
    """A host of a cluster of machines, by name."""
    machine = site.machines[name]
    if not isinstance(machine, VirtualMachine):
        raise OverlaydError(f"{name} of cluster {site.cluster.name} is a container")
    return machine


def remove_one(machine: VirtualMachine) -> None:
    """Remove one host and its disk."""
    virtual_machine.remove_machine(machine)


def kernel_folder(cluster: Cluster) -> Path:
    """The folder, below the build folder, of the kernel that a cluster's machines boot."""
    return kernels.folder(kernels.SUITES[cluster.kernel] if cluster.kernel else recipe.kernel_suite(cluster.base))


def _kernel(cluster: Cluster) -> Kernel:
    return Kernel(PLACE.build / kernel_folder(cluster))


def _bridge(cluster: Cluster) -> str:
    return f"br-{client().networks.get(cluster.docker_network).short_id}"


def _files(site: ClusterSite, name: str, settings: dict[str, str]) -> dict[str, bytes]:
    """The files of a machine's disk with settings: what a container gets as variables, network and volumes."""
    cluster = site.cluster
    variables = plan.host(cluster, name, "", privileged=False, settings=settings).environment
    network = (
        f"[Match]\nMACAddress={virtual_machine.mac(cluster.address(name))}\n\n"
        f"[Network]\nAddress={cluster.address(name)}/{cluster.underlay.prefixlen}\nGateway={cluster.underlay[1]}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )
    return {
        "overlayd": "".join(f'{key}="{value}"\n' for key, value in variables.items()).encode(),
        "hostname": f"{name}\n".encode(),
        "underlay.network": network.encode(),
        "authorized_keys": virtual_machine.public_key(cluster.name),
        **({} if cluster.open_etcd else _login(cluster, site.image("etcd"))),
    }


def _login(cluster: Cluster, image: str) -> dict[str, bytes]:
    """The files that a host's user logs in to etcd with, out of the volume that a container would mount."""
    volume = cluster.volume(plan.HOST_USER)
    # Never started: Docker reads a volume for a container that is only made, too.
    container = client().containers.create(
        image, ["true"], volumes=[f"{volume}:/login:ro"], network_mode="none", labels=cluster.labels("login")
    )
    try:
        stream, _ = container.get_archive("/login/.")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            files = {Path(entry.name).name: tar.extractfile(entry) for entry in tar if entry.isreg()}
            return {name: file.read() for name, file in files.items() if file is not None}
    finally:
        container.remove(force=True, v=True)

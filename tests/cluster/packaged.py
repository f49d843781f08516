"""A cluster for the tests of the RPM: etcd, another host's lease, and one host that has docker and no overlayd yet."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

from images.engine.annotations import version
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.lease import Lease, Leg
from rpm import source
from rpm.targets import DOCS, FROZEN, LICENCES, REPOSITORY, build_script
from tests.cluster import docker_engine, plan
from tests.cluster.create import ROOT, remove
from tests.cluster.description import Cluster
from tests.cluster.docker_engine import PlannedContainer, client
from tests.cluster.machine import Machine
from tests.cluster.site import Site
from tests.cluster.steps import etcd, hosts, network_config, networks
from tests.polling import eventually

NAME = "package"
UNDERLAY = IPv4Network("198.18.22.0/24")
PEER_SUBNET = IPv4Network("10.42.200.0/24")
# On the host: the RPM as it was built, and the same with a higher release.
RPM = "/root/overlayd.rpm"
NEWER_RPM = "/root/overlayd-newer.rpm"
SYSCONFIG = "/etc/sysconfig/overlayd"
# A yum that asks no repository: what the package needs is on the host.
YUM = ("yum", "--assumeyes", "--setopt=reposdir=/nonexistent")
_BOOT_S = 60.0


def built() -> Path:
    """The RPM that is tested. Raises OverlaydError where there is none."""
    found = sorted((ROOT / "build" / REPOSITORY).glob("overlayd-*.rpm"))
    if not found:
        raise OverlaydError("there is no RPM", hint="invoke rpm.build")
    return found[-1]


@dataclass(frozen=True)
class Packages:
    """Both RPMs, by where they lie on a host."""

    files: Mapping[str, bytes]

    def give(self, machine: Machine) -> None:
        """Put them on a host, which may have them."""
        if not machine.succeeds("test", "-s", NEWER_RPM):
            machine.container.put_archive("/root", tar(self.files))


def packages(base: str) -> Packages:
    """The RPM as it was built, and the same with a higher release."""
    return Packages({RPM: built().read_bytes(), NEWER_RPM: _newer(Cluster(name=NAME, base=base, underlay=UNDERLAY))})


def installed_releases(host: Machine) -> list[str]:
    """The releases of overlayd in rpm's database: one, or two where an upgrade did not come to its end."""
    return host.told("rpm", "--query", "--queryformat=%{RELEASE}\\n", "overlayd").split()


def ours(host: Machine) -> dict[str, str]:
    """What of ours the kernel holds, by the command that shows it."""
    shown = {
        "links": host.shell("ip -oneline link show | grep -E 'flannel|overlay' || true"),
        "routes": host.shell("ip route show table all | grep -E '10\\.42\\.' | grep -v 'dev docker0' || true"),
        "rules": host.shell("iptables-save | grep -iE 'overlayd|10\\.42\\.' || true"),
    }
    return {name: text for name, text in shown.items() if text.strip()}


def _newer(cluster: Cluster) -> bytes:
    """The same RPM with a higher release, made by the same script from the same frozen program."""
    script = build_script(version(ROOT), source.epoch(ROOT), release=2, compression="w1.zstdio")
    mounts = {
        ROOT / "build" / FROZEN: "/run/frozen",
        ROOT / "build" / DOCS: "/run/docs",
        ROOT / "build" / LICENCES: "/run/licenses",
        ROOT / "rpm": "/run/rpm",
        ROOT / "LICENSE": "/run/LICENSE",
    }
    container = client().containers.create(
        cluster.image("freezer"),
        ["/bin/sh", "-euc", script],
        network_mode="none",
        labels=cluster.labels("rpmbuild"),
        volumes=[f"{folder}:{place}:ro" for folder, place in mounts.items()],
    )
    try:
        container.start()
        if container.wait()["StatusCode"] != 0:
            raise CommandFailed(f"rpmbuild: {container.logs().decode(errors='replace')}")
        chunks, _stat = container.get_archive("/repo")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if member.name.endswith(".rpm") and file is not None:
                    return file.read()
    finally:
        container.remove(force=True, v=True)
    raise CommandFailed("rpmbuild made no RPM")


@contextmanager
def bare_host(base: str, files: Packages) -> Iterator[Site]:
    """The cluster, for the length of the block. Its one host has booted, and the RPMs lie in /root."""
    remove(NAME)
    cluster = Cluster(name=NAME, base=base, hosts=1, underlay=UNDERLAY)
    site = Site(cluster=cluster)
    try:
        for step in (networks, etcd, network_config):
            step.make(site)
        # A peer that answers nobody is enough to have routes, neighbours and rules that must go again.
        data = {"VNI": 1, "VtepMAC": "0e:00:c6:12:16:4d"}
        peer = Lease(v4=Leg(subnet=PEER_SUBNET, public_ip=UNDERLAY[77], data=data), backend_type="vxlan")
        site.etcdctl("put", f"{cluster.prefix}/subnets/{peer.key_name}", peer.value().decode())
        site.machines["host1"] = machine = _boot(cluster)
        files.give(machine)
        yield site
    finally:
        remove(NAME)


def _boot(cluster: Cluster) -> Machine:
    host = plan.host(cluster, "host1", privileged=hosts.privileged_works(cluster))
    host = replace(host, image=cluster.image("docker"), environment={})
    docker_engine.image_id(host.image)
    for volume in host.volumes:
        client().volumes.create(volume, labels=host.labels)
    machine = Machine("host1", host.address, PlannedContainer(host).start().get_wrapped_container())
    eventually("the host boots", lambda: machine.succeeds("systemctl", "is-active", "docker"), timeout_s=_BOOT_S)
    return machine


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar of files by their names, as put_archive takes it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(Path(path).name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()

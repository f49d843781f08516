"""A cluster for the tests of the RPM: etcd, another host's lease, and one host that has docker and no overlayd yet."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

from images.bases.local_repository import RPM_REPOSITORY
from images.engine import docker_images
from images.engine.place import Place
from images.ship import image_inventory
from overlayd.errors import OverlaydError
from overlayd.leases.lease import FamilyLease, Lease
from rpm import source
from tests.testbed.cluster import bootable, plan
from tests.testbed.cluster.checkout import checkout, commit, give_what_is_built
from tests.testbed.cluster.create import ROOT, remove
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.docker_engine import PlannedContainer, client
from tests.testbed.cluster.invoked import invoked_well
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.steps import etcd, hosts, network_config, networks
from tests.testbed.polling import eventually

NAME = "package"
UNDERLAY = IPv4Network("198.18.22.0/24")
PEER_SUBNET = IPv4Network("10.42.200.0/24")
# On the host: the RPM as it was built, and that of a later commit.
RPM = "/root/overlayd.rpm"
NEWER_RPM = "/root/overlayd-newer.rpm"
SYSCONFIG = "/etc/sysconfig/overlayd"
# A yum that asks no repository: what the package needs is on the host.
YUM = ("yum", "--assumeyes", "--setopt=reposdir=/nonexistent")
_BOOT_S = 60.0


def built() -> Path:
    """The RPM that is tested. Raises OverlaydError where there is none."""
    found = sorted((ROOT / "build" / RPM_REPOSITORY.folder).glob("overlayd-*.rpm"))
    if not found:
        raise OverlaydError("there is no RPM", hint="invoke rpm.build")
    return found[-1]


@dataclass(frozen=True)
class Packages:
    """Both RPMs by where they lie on a host, and their releases."""

    files: Mapping[str, bytes]
    release: str
    newer_release: str

    def give(self, machine: Machine) -> None:
        """Put them on a host that does not have them yet."""
        if not machine.succeeds("test", "-s", NEWER_RPM):
            machine.container.put_archive("/root", tar(self.files))


def packages(base: str) -> Packages:
    """The RPM as it was built, and that of a later commit, built in a checkout of its own. Raises OverlaydError."""
    with tempfile.TemporaryDirectory(prefix="overlayd-later-") as folder:
        later = Place(root=Path(folder) / "checkout")
        checkout(later.root)
        give_what_is_built(later.root)
        path = later.root / source.PACKAGE / "__init__.py"
        path.write_text(f"{path.read_text()}LATER = True\n")
        commit(later.root, "a later commit", Path())
        try:
            invoked_well("rpm.build", "--base", base, root=later.root)
            [newer] = (later.build / RPM_REPOSITORY.folder).glob("overlayd-*.rpm")
            return Packages(
                files={RPM: built().read_bytes(), NEWER_RPM: newer.read_bytes()},
                release=_release(built()),
                newer_release=_release(newer),
            )
        finally:
            docker_images.forget(later.owner)


def _release(rpm: Path) -> str:
    return image_inventory.of_rpm(rpm).release


def installed_releases(host: Machine) -> list[str]:
    """The releases of overlayd in rpm's database: one, or two where an upgrade did not come to its end."""
    return host.run("rpm", "--query", "--queryformat=%{RELEASE}\\n", "overlayd").split()


def ours(host: Machine) -> dict[str, str]:
    """Links, routes and rules of overlayd that the kernel holds, by kind; empty without any."""
    shown = {
        "links": host.shell("ip -oneline link show | grep -E 'flannel|overlay' || true"),
        "routes": host.shell("ip route show table all | grep -E '10\\.42\\.' | grep -v 'dev docker0' || true"),
        "rules": host.shell("iptables-save | grep -iE 'overlayd|10\\.42\\.' || true"),
    }
    return {name: text for name, text in shown.items() if text.strip()}


@contextmanager
def bare_host(base: str, files: Packages) -> Iterator[ClusterSite]:
    """The cluster, for the length of the block. Its one host has booted, and the RPMs lie in /root.

    etcd asks for no login, as one that is older than overlayd may not: the package works with that too.
    """
    remove(NAME)
    cluster = Cluster(name=NAME, base=base, hosts=1, underlay=UNDERLAY, open_etcd=True)
    site = ClusterSite(cluster=cluster)
    try:
        for step in (networks, etcd, network_config):
            step.make(site)
        # A peer that answers nobody is enough to have routes, neighbours and rules that must go again.
        data = {"VNI": 1, "VtepMAC": "0e:00:c6:12:16:4d"}
        peer = Lease(v4=FamilyLease(subnet=PEER_SUBNET, public_ip=UNDERLAY[77], data=data), backend_type="vxlan")
        site.etcdctl("put", f"{cluster.prefix}/subnets/{peer.key_name}", peer.value().decode())
        site.machines["host1"] = machine = _boot(site)
        files.give(machine)
        yield site
    finally:
        remove(NAME)


def _boot(site: ClusterSite) -> Machine:
    host = plan.host(
        site.cluster,
        "host1",
        site.image("docker"),
        privileged=hosts.privileged_works(site),
        cgroups=bootable.cgroup_folder(site.cluster.base),
    )
    host = replace(host, environment={})
    for volume in host.volumes:
        client().volumes.create(volume, labels=host.labels)
    machine = Machine("host1", site.cluster.address("host1"), PlannedContainer(host).start().get_wrapped_container())
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

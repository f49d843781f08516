"""Hosts that are containers with systemd, dockerd and the RPM: what a user has."""

from __future__ import annotations

import shutil
from ipaddress import IPv4Network
from pathlib import Path

from overlayd.errors import OverlaydError
from tests.perf.place import Pair, Place
from tests.testbed.cluster.machine import PROBE, Machine
from tests.testbed.cluster.packaged import tar
from tests.testbed.cluster.site import ClusterSite

_BRIDGE = "bench0"
# Nobody routes it; apart from the overlay's network, whose strangers our daemon keeps out.
_PEERS = (IPv4Network("198.19.252.0/24"), IPv4Network("198.19.253.0/24"))


def process_of(machine: Machine, number: int | str) -> Path:
    """The folder below /proc of a process that has that number on a host. Raises OverlaydError.

    A host's /proc is seen through the root of its first process, on the machine on which dockerd runs.
    """
    machine.container.reload()
    path = Path(f"/proc/{machine.container.attrs['State']['Pid']}/root/proc/{number}")
    if not (path / "ns/net").exists():
        raise OverlaydError(
            f"the processes of {machine.name} are not to be seen from here",
            hint="the bench needs root, and a dockerd on this machine, in this namespace of processes",
        )
    return path


def namespace_in(machine: Machine, container: str) -> Path:
    """The network namespace of a container on a host."""
    number = machine.run("docker", "inspect", "--format={{.State.Pid}}", container).strip()
    return process_of(machine, number) / "ns/net"


class ClusterTopology:
    """The first two hosts of a cluster."""

    def __init__(self, site: ClusterSite) -> None:
        """Values only."""
        self.site = site
        self.machines = site.hosts[0], site.hosts[1]
        self._containers = [0, 0]

    @property
    def underlay(self) -> Pair:
        """The hosts' own network namespaces."""
        first, second = (Place(process_of(one, 1) / "ns/net", one.address) for one in self.machines)
        return Pair(first, second)

    def containers(self) -> Pair:
        """The probe containers; they are others after docker was restarted."""
        first, second = (Place(namespace_in(one, PROBE), one.probe_address()) for one in self.machines)
        return Pair(first, second)

    def peer_container(self, host: int, name: str, mtu_bytes: int) -> Place:
        """A container on a Docker network of the bench's, without address translation."""
        machine, subnet = self.machines[host], _PEERS[host]
        if not self._containers[host]:
            self._network(machine, subnet)
        self._containers[host] += 1
        address = subnet[1 + self._containers[host]]
        options = ["--detach", "--init", f"--name=bench-{name}", f"--network={_BRIDGE}", f"--ip={address}"]
        machine.run("docker", "run", *options, self.site.probe_image, "sleep", "infinity")
        place = Place(namespace_in(machine, f"bench-{name}"), address)
        place.run("ip", "link", "set", "eth0", "mtu", str(mtu_bytes))
        return place

    def _network(self, machine: Machine, subnet: IPv4Network) -> None:
        options = {"name": _BRIDGE, "enable_ip_masquerade": "false"}
        if int(machine.run("docker", "version", "--format={{.Server.Version}}").partition(".")[0]) >= 27:
            # Else it drops in table raw what comes to a container by another device.
            options["gateway_mode_ipv4"] = "routed"
        words = [f"--opt=com.docker.network.bridge.{key}={value}" for key, value in options.items()]
        machine.run("docker", "network", "create", f"--subnet={subnet}", *words, _BRIDGE)
        for way in ("--in-interface", "--out-interface"):
            machine.run("iptables", "--insert", "DOCKER-USER", way, _BRIDGE, "--jump", "ACCEPT")


def give_wireguard_go(site: ClusterSite) -> None:
    """Copy this machine's wireguard-go to hosts that have none: their kernel may lack WireGuard. Else do nothing."""
    program = shutil.which("wireguard-go")
    for machine in site.hosts if program else ():
        if not machine.succeeds("sh", "-c", "command -v wireguard-go"):
            machine.container.put_archive("/usr/bin", tar({"wireguard-go": Path(str(program)).read_bytes()}))
            machine.run("chmod", "0755", "/usr/bin/wireguard-go")

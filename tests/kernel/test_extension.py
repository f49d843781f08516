"""The extension backend with real commands: VXLAN as flannel documents it, made by `ip` and `bridge`."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.netns.families import host_on
from tests.testbed.netns.flannel_host import PREFIX, etcdctl, key, publish, published
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pinging, pings, reaches, send_over_tcp
from tests.testbed.polling import eventually, until
from tests.testbed.records import Recorder

# As in flannel's Documentation/extension.md, with three differences: `ip neigh` instead of `arp`, commands that undo
# it, and scripts on the host, since a host takes no commands from etcd.
_BEGIN = 'set -e; IF_NAME=flannel-vxlan; SUBNET_IP=$(echo $SUBNET | cut -d"/" -f 1)'
SCRIPTS = {
    "pre": "ip link del $IF_NAME 2>/dev/null || true; ip link add $IF_NAME type vxlan id 1 dstport 8472; "
    "cat /sys/class/net/$IF_NAME/address",
    "post": "ip addr add $SUBNET_IP/32 dev $IF_NAME && ip link set $IF_NAME up",
    "add": "read VTEP; ip route add $SUBNET nexthop via $SUBNET_IP dev $IF_NAME onlink && "
    "ip neigh add $SUBNET_IP lladdr $VTEP dev $IF_NAME && bridge fdb add $VTEP dev $IF_NAME self dst $PUBLIC_IP",
    "remove": "set +e; read VTEP; ip route del $SUBNET; ip neigh del $SUBNET_IP dev $IF_NAME; "
    "bridge fdb del $VTEP dev $IF_NAME self dst $PUBLIC_IP",
    "down": "ip link del flannel-vxlan",
    "route": 'exec ip route "$@"',
    "hangs": "case $SUBNET in 10.5.66.*) tail -f /dev/null;; *) ip route replace $SUBNET via $PUBLIC_IP;; esac",
}


@dataclass
class Programs:
    """The folder with the host's programs, from which etcd may choose."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o755)
        for name, text in SCRIPTS.items():
            path = self.folder / name
            path.write_text(f"#!/bin/sh\n{_BEGIN}\n{text}\n")
            path.chmod(0o755)

    @property
    def settings(self) -> dict[str, object]:
        """The setting by which a host allows these programs."""
        return {"extension-commands": self.folder}

    @property
    def vxlan(self) -> dict[str, str]:
        """The config for VXLAN as flannel documents it."""
        verbs = {"PreStartup": "pre", "PostStartup": "post", "SubnetAdd": "add", "SubnetRemove": "remove"}
        commands = {f"{verb}Command": f"{self.folder}/{name}" for verb, name in verbs.items()}
        return {"Type": "extension", **commands, "ShutdownCommand": f"{self.folder}/down"}

    @property
    def host_gw(self) -> dict[str, str]:
        """The config for plain routes."""
        return {
            "Type": "extension",
            "SubnetAddCommand": f"{self.folder}/route add $SUBNET via $PUBLIC_IP",
            "SubnetRemoveCommand": f"{self.folder}/route del $SUBNET via $PUBLIC_IP",
        }


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """The programs of all hosts in this file."""
    return Programs(tmp_path_factory.mktemp("programs") / "commands")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Iterator[Lab]:
    """A lab of hosts a and b whose network is VXLAN by commands."""
    with laboratory(tmp_path_factory.mktemp("extension"), programs.vxlan) as lab:
        first, second = (
            host_on(lab, name, f"10.5.2{at}.0/24", settings=programs.settings) for at, name in enumerate("ab")
        )
        eventually("b is reachable from a", lambda: pings(first, second))
        yield lab


def peer(host: Host, subnet: str) -> dict[str, Any]:
    """What a host's status says of the peer with that subnet; empty if it knows none."""
    found: list[dict[str, Any]] = host.status().get("peers", [])
    return next((one for one in found if one["subnet"] == subnet), {})


def problem_of(host: Host, subnet: str) -> str:
    """A host's problem with a peer; empty if there is none."""
    return peer(host, subnet).get("problem") or ""


def entries(host: Host, subnet: str) -> list[str]:
    """A host's routes and neighbours for a subnet."""
    base = subnet.partition("/")[0]
    lines = [*host.run("ip", "route").splitlines(), *host.run("ip", "neigh").splitlines()]
    return [line for line in lines if line.split()[0] in (subnet, base)]


def test_containers_reach_each_other_through_the_device_of_the_commands(a: Host, b: Host) -> None:
    eventually("a reaches b", partial(pings, a, b))
    eventually("b reaches a", partial(pings, b, a))
    # Larger than the MTU of the commands' device, which docker does not know.
    data = random.Random(4).randbytes(300_000)
    received = send_over_tcp(a, b, data)
    assert (received.digest, received.peer) == (hashlib.sha256(data).hexdigest(), a.container_address)
    until(lambda: peer(a, str(b.subnet)).get("path") == "extension")


def test_the_lease_has_the_startup_commands_output_as_flannel_writes_it(lab: Lab, a: Host) -> None:
    value = published(lab, a.subnet)
    mac = a.run("cat", "/sys/class/net/flannel-vxlan/address").strip()
    assert value == {"PublicIP": str(a.address), "PublicIPv6": None, "BackendType": "extension", "BackendData": mac}


def test_the_firewall_knows_the_device_that_the_commands_made(a: Host) -> None:
    assert "-i flannel-vxlan" in a.run("iptables-save", "-t", "raw")


def test_a_restart_runs_nothing_and_loses_nothing(a: Host, b: Host, record_property: Recorder) -> None:
    before = a.run("ip", "-o", "link", "show", "flannel-vxlan").split(":")[0]
    with pinging(b, a) as losses:
        a.stop()
        a.start()
    losses.fault("daemon restarted", "extension").record(record_property)
    assert losses.lost == 0
    assert a.run("ip", "-o", "link", "show", "flannel-vxlan").split(":")[0] == before


def test_a_host_that_joins_is_added_and_one_that_leaves_is_removed(
    lab: Lab, programs: Programs, a: Host, b: Host
) -> None:
    third = host_on(lab, "c", "10.5.22.0/24", settings=programs.settings)
    subnet = str(third.subnet)
    eventually("a reaches c", lambda: pings(a, third))
    assert len(entries(a, subnet)) == 2
    lab.remove_host(third)
    etcdctl(lab, "del", key(subnet))
    eventually("nothing of c is left", lambda: not entries(a, subnet) and str(third.address) not in fdb(a))
    assert pings(a, b)


def fdb(host: Host) -> str:
    """The device's forwarding entries."""
    return host.run("bridge", "fdb", "show", "dev", "flannel-vxlan")


def test_no_shell_interprets_what_another_host_publishes(lab: Lab, a: Host, b: Host, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    data = f"$(touch {trap}); `touch {trap}`; touch {trap} & '\"; touch {trap}; \x1b[2J"
    lease = {"PublicIP": "198.18.1.99", "BackendType": "extension", "BackendData": data}
    publish(lab, "10.5.99.0/24", lease)
    problem = eventually("the command fails", lambda: problem_of(a, "10.5.99.0/24"))
    assert f"$(touch {trap})" in problem
    assert "\x1b" not in problem
    assert "SUBNET=10.5.99.0/24 PUBLIC_IP=198.18.1.99 /" in problem
    assert peer(a, str(b.subnet))["problem"] is None
    assert a.status()["state"] == "ready"
    # The commands that succeeded are undone.
    etcdctl(lab, "del", key("10.5.99.0/24"))
    eventually("it is forgotten", lambda: not peer(a, "10.5.99.0/24") and not entries(a, "10.5.99.0/24"))
    assert not trap.exists()


def test_a_peer_whose_data_changed_is_served_with_the_new_data(lab: Lab, a: Host) -> None:
    for mac, old in (("02:00:00:00:00:98", None), ("02:00:00:00:00:99", "02:00:00:00:00:98")):
        lease = {"PublicIP": "198.18.1.98", "BackendType": "extension", "BackendData": mac}
        publish(lab, "10.5.98.0/24", lease)
        eventually("the new is there", lambda mac=mac: any(mac in line for line in entries(a, "10.5.98.0/24")))  # type: ignore[misc]
        assert mac in fdb(a)
        assert old is None or old not in fdb(a)
    etcdctl(lab, "del", key("10.5.98.0/24"))
    eventually("it is gone", lambda: not entries(a, "10.5.98.0/24"))


def test_cleanup_leaves_nothing(a: Host, b: Host) -> None:
    a.stop()
    said = a.cleanup()
    assert f"removed peer {b.subnet}" in said
    assert "flannel-vxlan" not in a.run("ip", "link")
    assert not entries(a, str(b.subnet))
    assert not (a.run_dir / "extension.json").exists()
    # After a start all of it is there again, with another MAC than the one that b knows.
    a.start()
    eventually("a reaches b again", lambda: pings(a, b) and pings(b, a))


def test_host_gw_by_commands_works_and_another_backend_takes_over(tmp_path: Path, programs: Programs) -> None:
    with laboratory(tmp_path, programs.host_gw) as lab:
        a, b = (lab.host(name, settings=programs.settings) for name in "ab")
        eventually("a reaches b", lambda: pings(a, b) and pings(b, a))
        (route,) = entries(a, str(b.subnet))
        assert "proto 157" not in route
        lab.configure({"Type": "host-gw"})
        eventually("routes are ours", lambda: "proto 157" in " ".join(entries(a, str(b.subnet))))
        eventually("a reaches b", lambda: pings(a, b) and pings(b, a))
        assert "undone" in a.log.read_text()
        assert not (a.run_dir / "extension.json").exists()


def test_a_command_that_hangs_stops_neither_other_peers_nor_the_lease(tmp_path: Path, programs: Programs) -> None:
    hangs = {**programs.host_gw, "SubnetAddCommand": f"{programs.folder}/hangs"}
    with laboratory(tmp_path, hangs) as lab:
        lease = {"PublicIP": "198.18.1.66", "BackendType": "extension"}
        publish(lab, "10.5.66.0/24", lease)
        publish(lab, "10.5.67.0/24", {**lease, "PublicIP": "198.18.1.67"})
        begun = time.monotonic()
        a = host_on(lab, "a", "10.5.20.0/24", lease_ttl_s=6, settings=programs.settings)
        problem = eventually("the hang is told", lambda: problem_of(a, "10.5.66.0/24"))
        assert "no end after 10 s" in problem
        eventually("the other is served", lambda: peer(a, "10.5.67.0/24").get("path") == "extension")
        assert entries(a, "10.5.67.0/24")
        # Longer than the TTL of the lease.
        assert time.monotonic() - begun > 10
        assert key(a.subnet) in etcdctl(lab, "get", "--prefix", "--keys-only", f"{PREFIX}/subnets/")
        assert "no such lease" not in a.log.read_text()


def test_a_host_that_lost_its_lease_runs_all_commands_for_another_subnet(tmp_path: Path, programs: Programs) -> None:
    with laboratory(tmp_path, programs.vxlan) as lab:
        a, b = (lab.host(name, settings=programs.settings) for name in "ab")
        eventually("a reaches b", lambda: pings(a, b))
        lost = a.subnet
        publish(lab, lost, {"PublicIP": "198.18.1.55", "BackendType": "vxlan"})
        eventually("a has another subnet", lambda: a.subnet != lost)
        eventually("b reaches a's device there", lambda: reaches(b, a.subnet[0]))
        assert f"{lost[0]}/32" not in a.run("ip", "address", "show", "dev", "flannel-vxlan")
        mac = a.run("cat", "/sys/class/net/flannel-vxlan/address").strip()
        assert published(lab, a.subnet)["BackendData"] == mac
        assert not entries(b, str(lost))

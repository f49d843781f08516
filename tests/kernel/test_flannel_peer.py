"""A flannel host and an overlayd host work together in one network: in etcd and on the wire."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.testbed.netns.families import host_on
from tests.testbed.netns.fast_path import DATA, FEW_BYTES, by_the_bridge, fast, slow
from tests.testbed.netns.flannel_host import MTU_BYTES, PREFIX, FlannelHost, etcdctl, key, publish, published
from tests.testbed.netns.lab import NETWORK, Host, Lab, laboratory
from tests.testbed.netns.traffic import lost_of_size, pings, reaches, send_over_tcp
from tests.testbed.polling import eventually

SUBNET = "10.5.200.0/24"
CONFIGS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "vxlan-direct": {"Type": "vxlan", "DirectRouting": True},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
}


@dataclass(frozen=True)
class Pair:
    """A network of one host of each kind."""

    lab: Lab
    ours: Host
    flannel: FlannelHost

    @property
    def theirs(self) -> Host:
        """The flannel host's namespaces."""
        return self.flannel.host


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both hosts, once each knows the other."""
    config = CONFIGS[request.param]
    with laboratory(tmp_path_factory.mktemp("flannel"), config) as lab:
        flannel = FlannelHost(lab, "f", SUBNET, config["Type"], direct="DirectRouting" in config)
        ours = host_on(lab, "a", "10.5.20.0/24", settings={"fast-path": "auto"})
        try:
            flannel.learn(ours)
            if config["Type"] != "udp":
                fast(ours)
            yield Pair(lab, ours, flannel)
        finally:
            flannel.stop()


@pytest.fixture
def lab(pair: Pair) -> Lab:
    """The state that the report of a failed test shows."""
    return pair.lab


def test_packets_pass_both_ways_with_their_source_address(pair: Pair) -> None:
    eventually("ours reaches theirs", lambda: pings(pair.ours, pair.theirs))
    assert pings(pair.theirs, pair.ours)
    data = random.Random(6).randbytes(500_000)
    for source, target in ((pair.ours, pair.theirs), (pair.theirs, pair.ours)):
        received = send_over_tcp(source, target, data)
        assert (received.digest, received.peer) == (hashlib.sha256(data).hexdigest(), source.container_address)
    assert pair.ours.mtu_bytes == pair.theirs.mtu_bytes
    assert lost_of_size(pair.ours, pair.theirs, pair.ours.mtu_bytes) == "0 of 2"
    assert lost_of_size(pair.theirs, pair.ours, pair.ours.mtu_bytes) == "0 of 2"


def test_what_ours_sends_by_the_fast_path_arrives_at_flannel(pair: Pair) -> None:
    if pair.flannel.kind == "udp":
        # By a veth, flannel would read packets uncut from its socket.
        assert f"which the peer {pair.theirs.address} does not take" in slow(pair.ours)
        pair.ours.run("ethtool", "-K", "eth0", "tx", "off", "tx-udp_tnl-segmentation", "off")
    fast(pair.ours)
    before = by_the_bridge(pair.ours)
    received = send_over_tcp(pair.ours, pair.theirs, DATA)
    assert received.digest == hashlib.sha256(DATA).hexdigest()
    assert by_the_bridge(pair.ours) - before < FEW_BYTES


def test_a_flannel_peer_is_measured_by_its_container_though_it_publishes_none(pair: Pair) -> None:
    def reach() -> list[dict[str, Any]]:
        path = pair.ours.run_dir / "reach.json"
        found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return found

    eventually("it is reached", lambda: [one["state"] for one in reach()] == ["reached"], timeout_s=30)
    assert reach()[0]["answered_by"] == str(pair.theirs.container_address)


def test_the_hosts_themselves_reach_containers_of_the_other(pair: Pair) -> None:
    for one, other in ((pair.ours, pair.theirs), (pair.theirs, pair.ours)):
        assert "1 received" in one.run("ping", "-n", "-c", "1", "-W", "2", str(other.container_address))


def test_flannel_reads_the_lease_that_we_write(pair: Pair) -> None:
    found = etcdctl(pair.lab, "get", "--prefix", "--keys-only", f"{PREFIX}/subnets/").split()
    assert key(pair.ours.subnet) in found
    for name in found:
        assert flannel_parses_key(name)
    lease = flannel_parses_value(etcdctl(pair.lab, "get", "--print-value-only", key(pair.ours.subnet)))
    assert lease["PublicIP"] == ipaddress.IPv4Address(pair.ours.address)
    # flannel reads a value without a backend type as udp.
    assert lease["BackendType"] == pair.flannel.kind
    if pair.flannel.kind == "vxlan":
        device = pair.ours.run("cat", "/sys/class/net/overlay.1/address").strip()
        assert lease["BackendData"] == {"VNI": 1, "VtepMAC": device}
    kept = json.loads(etcdctl(pair.lab, "get", "-w", "json", key(pair.ours.subnet)))["kvs"][0]
    ttl = etcdctl(pair.lab, "lease", "timetolive", f"{kept['lease']:x}")
    assert "granted with TTL(86400s)" in ttl


def flannel_parses_key(name: str) -> bool:
    """As subnet.ParseSubnetKey: flannel's regular expression (its dots match any character), then net.ParseIP."""
    match = re.search(r"(\d+\.\d+.\d+.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$", name)
    if match is None:
        return False
    subnet = ipaddress.IPv4Network(f"{match[1]}/{match[2]}")
    return match[3] is None and subnet.subnet_of(NETWORK)


def flannel_parses_value(text: str) -> dict[str, Any]:
    """As encoding/json reads lease.LeaseAttrs: addresses are strings or null, the type a string, data anything."""
    document = {name.lower(): value for name, value in json.loads(text).items()}
    assert set(document) <= {"publicip", "publicipv6", "backendtype", "backenddata", "backendv6data"}
    assert isinstance(document["publicip"], str)
    assert document.get("publicipv6") is None
    assert isinstance(document.get("backendtype", ""), str)
    data = document.get("backenddata")
    # flannel's udp looks at none.
    if data is not None and document.get("backendtype") == "vxlan":
        # vxlan's data: a number, and a string that net.ParseMAC accepts.
        assert type(data["VNI"]) is int
        assert re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", data["VtepMAC"])
    return {
        "PublicIP": ipaddress.IPv4Address(document["publicip"]),
        "BackendType": document.get("backendtype") or "udp",
        "BackendData": data,
    }


def test_subnet_env_is_flannels_byte_for_byte(pair: Pair) -> None:
    assert (pair.ours.run_dir / "subnet.env").read_bytes() == (
        f"FLANNEL_NETWORK={NETWORK}\n"
        f"FLANNEL_SUBNET={pair.ours.subnet[1]}/24\n"
        f"FLANNEL_MTU={MTU_BYTES[pair.flannel.kind]}\n"
        "FLANNEL_IPMASQ=true\n"
    ).encode()


def test_a_reservation_that_flannels_tools_wrote_stays_a_reservation(pair: Pair) -> None:
    third = pair.lab.host("c", start=False)
    # flannel's documentation reserves a subnet in this way: a key without an etcd lease.
    value = published(pair.lab, pair.ours.subnet) | {"PublicIP": str(third.address)}
    etcdctl(pair.lab, "put", key("10.5.222.0/24"), json.dumps(value))
    try:
        for _ in range(2):
            third.start()
            assert str(third.subnet) == "10.5.222.0/24"
            kept = json.loads(etcdctl(pair.lab, "get", "-w", "json", key("10.5.222.0/24")))["kvs"][0]
            assert "lease" not in kept
            third.stop()
    finally:
        pair.lab.remove_host(third)
        etcdctl(pair.lab, "del", key("10.5.222.0/24"))


def test_a_flannel_host_that_leaves_takes_its_entries_with_it_and_may_come_back(pair: Pair) -> None:
    value = published(pair.lab, SUBNET)
    assert pings(pair.ours, pair.theirs)
    pair.flannel.leave()
    eventually("nothing of it is left", lambda: not entries(pair.ours, pair.theirs))
    eventually("its packets go nowhere", lambda: not reaches(pair.ours, pair.theirs.container_address))
    publish(pair.lab, SUBNET, value)
    eventually("it is reached again", lambda: pings(pair.ours, pair.theirs))


def entries(host: Host, other: Host) -> list[str]:
    """All entries of a kernel for another host: routes, neighbours, forwarding entries."""
    lines = host.run("ip", "route", "show", "proto", "157").splitlines()
    lines += host.run("ip", "neigh", "show", "nud", "permanent").splitlines()
    if "overlay.1" in host.run("ip", "link"):
        lines += host.run("bridge", "fdb", "show", "dev", "overlay.1").splitlines()
    marks = (f"{other.subnet.network_address}", f"dst {other.address} ", f"via {other.address} ")
    found = [line for line in lines if any(mark in f"{line} " for mark in marks)]
    if "overlay0" in host.run("ip", "link"):
        # udp has one route for all peers; only the daemon knows which peer holds which subnet.
        found += [peer["subnet"] for peer in host.status()["peers"] if peer["subnet"] == str(other.subnet)]
    return found


@pytest.mark.parametrize("pair", ["vxlan"], indirect=True)
def test_a_flannel_host_with_another_mac_leaves_no_entry_of_the_first(pair: Pair) -> None:
    before = published(pair.lab, SUBNET)
    changed = {**before, "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:77"}}
    publish(pair.lab, SUBNET, changed)
    eventually("the new is there", lambda: "02:00:00:00:00:77" in fdb(pair.ours))
    assert before["BackendData"]["VtepMAC"] not in fdb(pair.ours)
    publish(pair.lab, SUBNET, before)
    eventually("it is reached again", lambda: pings(pair.ours, pair.theirs))


def fdb(host: Host) -> str:
    """The overlay device's forwarding entries."""
    return host.run("bridge", "fdb", "show", "dev", "overlay.1")

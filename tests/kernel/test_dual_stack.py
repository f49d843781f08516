"""Networks with IPv4 and IPv6 subnets: packets of both pass, and both are repaired."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import NETWORK6, Host, Lab, laboratory
from tests.testbed.netns.traffic import lost_of_size, pings, pings6
from tests.testbed.polling import eventually

PREFIX = "/coreos.com/network"
# The daemon looks every half second; the rest is for a busy machine.
HEARD_S = 5.0
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "auto": {"Type": "auto"},
}


@pytest.fixture(scope="module", params=list(BACKENDS))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A dual-stack lab with hosts a and b."""
    with laboratory(tmp_path_factory.mktemp(request.param), BACKENDS[request.param], dual=True) as lab:
        a, b = lab.host("a"), lab.host("b")
        eventually("b is reachable from a", lambda: pings(a, b))
        yield lab


def test_containers_reach_each_other_over_both(a: Host, b: Host) -> None:
    for one, other in ((a, b), (b, a)):
        eventually("over IPv4", lambda one=one, other=other: pings(one, other))  # type: ignore[misc]
        eventually("over IPv6", lambda one=one, other=other: pings6(one, other))  # type: ignore[misc]
    assert a.subnet6 is not None
    assert a.subnet6.subnet_of(NETWORK6)


def test_the_mtu_leaves_room_for_the_larger_headers_of_ipv6(a: Host, b: Host) -> None:
    eventually("over IPv6", lambda: pings6(a, b))
    assert lost_of_size(a, b, a.mtu_bytes, address=b.container_address6) == "0 of 2"
    assert lost_of_size(a, b, a.mtu_bytes + 1, address=b.container_address6) == "2 of 2"


def test_ipv6_routes_and_neighbours_come_back(a: Host, b: Host) -> None:
    eventually("over IPv6", lambda: pings6(a, b))
    before = a.run("ip", "-6", "route", "show", "proto", "157")
    assert str(b.subnet6) in before
    a.run("ip", "-6", "route", "flush", "proto", "157")
    eventually("the routes are back", lambda: a.run("ip", "-6", "route", "show", "proto", "157") == before)
    a.run("ip", "link", "set", "eth0", "down")
    # The kernel removes an interface's IPv6 addresses when it goes down (keep_addr_on_down is off).
    a.run("ip", "link", "set", "eth0", "up")
    a.run("ip", "address", "replace", f"{a.address6}/64", "dev", "eth0", "nodad")
    eventually("over IPv6 again", lambda: pings6(a, b) and pings6(b, a))
    assert a.run("ip", "-6", "route", "show", "proto", "157") == before


def test_damage_to_ipv6_state_is_noticed_without_the_timer(lab: Lab, b: Host) -> None:
    # With this interval the timer cannot repair it within the test.
    host = lab.host("d", settings={"resync-s": 600})
    try:
        eventually("over IPv6", lambda: pings6(host, b))
        before = host.run("ip", "-6", "route", "show", "proto", "157")
        began = time.monotonic()
        host.run("ip", "-6", "route", "flush", "proto", "157")
        eventually("the routes are back", lambda: host.run("ip", "-6", "route", "show", "proto", "157") == before)
        assert time.monotonic() - began < HEARD_S
        eventually("over IPv6 again", lambda: pings6(host, b))
    finally:
        lab.remove_host(host)


def test_the_pair_of_subnets_outlives_the_daemon(a: Host, b: Host) -> None:
    before = (a.subnet, a.subnet6)
    a.stop()
    a.start()
    assert (a.subnet, a.subnet6) == before
    eventually("over IPv6", lambda: pings6(b, a))


def test_a_device_that_takes_no_zero_checksums_is_understood_both_ways(lab: Lab, a: Host) -> None:
    """One peer is flannel's, which keeps the kernel's defaults; one is an older overlayd, which sent such checksums."""
    if json.loads(lab.etcdctl("get", "--print-value-only", f"{PREFIX}/config"))["Backend"]["Type"] == "host-gw":
        pytest.skip("no encapsulation, no outer checksum")
    theirs = lab.host("f", start=False)
    try:
        mac, gateway, gateway6 = "02:aa:bb:cc:dd:06", "10.5.201.0", str(NETWORK6[0xC9 << 64])
        namespaces.ip(
            theirs.namespace,
            f"link add flannel-v6.1 address {mac} type vxlan id 1 dstport 8472 local {theirs.address6} dev eth0 "
            "nolearning",
            f"address add {gateway6}/128 dev flannel-v6.1 nodad",
            "link set flannel-v6.1 mtu 1430 up",
        )
        lease = json.loads(lab.etcdctl("get", "--prefix", "--print-value-only", f"{PREFIX}/subnets/{a.subnet[0]}"))
        peer, at = lease["BackendV6Data"]["VtepMAC"], str(a.subnet6).removesuffix("/64")
        theirs.run("bridge", "fdb", "append", peer, "dst", str(a.address6), "dev", "flannel-v6.1")
        namespaces.ip(
            theirs.namespace,
            f"neighbour replace {at} lladdr {peer} dev flannel-v6.1 nud permanent",
            f"route replace {a.subnet6} via {at} dev flannel-v6.1 onlink",
        )
        data = {"VNI": 1, "VtepMAC": mac}
        value = {"PublicIP": str(theirs.address), "PublicIPv6": str(theirs.address6), "BackendType": "vxlan"}
        families = {"BackendData": {**data, "VtepMAC": "02:aa:bb:cc:dd:04"}, "BackendV6Data": data}
        key = f"{PREFIX}/subnets/{gateway}-24&{gateway6}-64"
        lab.etcdctl("put", key, json.dumps({**value, **families}))
        command = f"ping -n -c 1 -W 1 -I {at} {gateway6} || true"

        def answered() -> bool:
            return " 0% packet loss" in a.run("sh", "-c", command)

        eventually("ours is heard by theirs", answered)
        back = f"ping -n -c 1 -W 1 -I {gateway6} {a.container_address6} || true"
        eventually("theirs by ours", lambda: " 0% packet loss" in theirs.run("sh", "-c", back))
        device = f"id 1 local {a.address6} dev eth0 dstport 8472 nolearning"
        a.stop()
        namespaces.ip(
            a.namespace,
            "link delete overlay-v6.1",
            f"link add overlay-v6.1 address {peer} type vxlan {device} udp6zerocsumtx udp6zerocsumrx",
            "link set overlay-v6.1 alias overlayd mtu 1430 up",
        )
        a.start()
        eventually("the device of before is made anew", answered)
        lab.etcdctl("del", key)
    finally:
        lab.remove_host(theirs)


def test_ipv6_that_is_switched_off_is_named_and_the_remedy_mends(a: Host, b: Host) -> None:
    assert a.subnet6 is not None
    a.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    eventually("a says why", lambda: "net/ipv6/conf/eth0/disable_ipv6=0" in str(a.status()["problems"]))
    found = json.loads(a.call("doctor", "--json", "--no-arp").stdout)
    (finding,) = (one for one in found["findings"] if one["name"] == "ipv6-disabled")
    assert "eth0, docker0" in finding["found"]
    # A daemon that starts meanwhile reports it too.
    a.stop()
    a.start(ready=False)
    eventually("a waits", lambda: "eth0/disable_ipv6=0" in str(a.status().get("problem")))
    a.run("sh", "-c", finding["remedy"])
    a.run("ip", "address", "replace", f"{a.address6}/64", "dev", "eth0", "nodad")
    # As docker does when it starts; `default` applies to interfaces that are made later.
    namespaces.ip(a.namespace, f"address replace {a.subnet6[1]}/64 dev docker0 nodad")
    eventually("a is ready", lambda: (a.status()["state"], a.status()["problems"]) == ("ready", []))
    eventually("over IPv6 again", lambda: pings6(a, b) and pings6(b, a))
    a.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")


def test_cleanup_takes_ipv6_away_too(lab: Lab) -> None:
    host = lab.host("c")
    try:
        host.stop()
        assert "proto 157" in host.run("sh", "-c", "ip -6 route show proto 157; echo proto 157")
        host.cleanup()
        assert host.run("ip", "-6", "route", "show", "proto", "157") == ""
        assert "overlay" not in host.run("ip", "link")
    finally:
        lab.remove_host(host)


def test_a_network_without_ipv4_carries_packets_and_no_host_publishes_0_0_0_0(tmp_path: Path) -> None:
    with laboratory(tmp_path, {"Type": "vxlan"}, dual=True) as lab:
        config = {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": str(NETWORK6), "Backend": {"Type": "vxlan"}}
        lab.etcdctl("put", "/coreos.com/network/config", json.dumps(config))
        a, b = lab.host("a", start=False), lab.host("b", start=False)
        a.start()
        b.start()
        variables = (a.run_dir / "subnet.env").read_text()
        assert "FLANNEL_SUBNET" not in variables
        assert f"FLANNEL_IPV6_NETWORK={NETWORK6}" in variables
        assert "--bip" not in (a.run_dir / "docker.env").read_text()
        assert a.status()["subnet"] is None
        assert a.subnet6 is not None
        assert b.subnet6 is not None
        # No container runs here; the devices have the first addresses of the subnets.
        own, peer = str(a.subnet6[0]), str(b.subnet6[0])
        eventually(
            "a reaches b", lambda: " 0% packet loss" in a.run("sh", "-c", f"ping -c1 -W1 -I {own} {peer} || true")
        )
        assert a.run("ip", "-4", "route", "show", "proto", "157") == ""
        subnet = a.subnet6
        a.stop()
        a.start()
        assert a.subnet6 == subnet
        # A flannel without IPv4 takes a lease with the address 0.0.0.0 for its own (findLeaseByIP).
        leases = lab.etcdctl("get", "--prefix", "--print-value-only", f"{PREFIX}/subnets/").split()
        addresses = {json.loads(one)["PublicIP"] for one in leases}
        assert len(addresses) == 2
        assert all(address.startswith("24") for address in addresses)
        assert f"{peer.removesuffix('::')}" in a.call("lease", "list").stdout
        assert a.call("status").returncode == 0, a.call("status").stdout

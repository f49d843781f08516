"""Routes of others stay in the routing table before, while and after a network is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from overlayd import backends
from overlayd.backends.environment import Environment
from overlayd.backends.vxlan import vtep_mac
from overlayd.errors import KernelRefused, NetworkConfigError
from overlayd.kernel import netlink
from overlayd.kernel.converge import ConvergeReport
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import parse_network_config
from overlayd.underlay.choose import choose
from tests.testbed.netns import namespaces
from tests.testbed.netns.families import host_on
from tests.testbed.netns.lab import Lab, laboratory
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually

CONFIGS = {
    False: parse_network_config('{"Network": "10.5.0.0/16"}'),
    True: parse_network_config('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd42::/48"}'),
}
KINDS = ("vxlan", "auto", "host-gw", "udp", "alloc")
DUAL = ("vxlan", "auto", "host-gw")
# Routes that an administrator, docker and others may have inside the network; and one case without a conflict.
OTHERS = (
    "link add br-7 type bridge",
    "link set br-7 up",
    "address add 10.5.2.1/24 dev br-7",
    "address add fd42:0:0:2::1/64 dev br-7 nodad",
    "route add 10.5.3.0/24 via 198.18.1.99",
    "route add 10.5.4.0/24 via 198.18.1.99 metric 700",
    "route add 10.5.5.128/25 via 198.18.1.99",
    "route add 10.5.8.0/21 via 198.18.1.99",
    "route add blackhole 10.5.6.0/24",
    "route add 10.0.0.0/8 via 198.18.1.98",
    "route add fd42:0:0:3::/64 via 2001:db8:1::99",
    "route add fd42:0:0:4::/64 via 2001:db8:1::99 metric 2000",
    "route add fd42:0:0:5:8000::/65 via 2001:db8:1::99",
    "route add unreachable fd42:0:0:6::/64",
)
WHOLE = "route add 10.5.0.0/16 via 198.18.1.97"


@pytest.fixture
def host() -> Iterator[str]:
    """A namespace with an underlay interface, and with interfaces and routes of others inside the network."""
    name = namespaces.unique("others")
    namespaces.make(name)
    try:
        namespaces.ip(
            name,
            "link add eth0 type veth peer name other",
            "address add 198.18.1.1/24 dev eth0",
            "address add 2001:db8:1::1/64 dev eth0 nodad",
            "link set eth0 up",
            "link set other up",
            "route add default via 198.18.1.254",
            "route add default via 2001:db8:1::fe",
            *OTHERS,
        )
        yield name
    finally:
        namespaces.remove(name)


def lease(number: int, kind: str, *, dual: bool) -> Lease:
    """The lease of the host with that number."""
    kind = backends.published_type(kind)
    address, address6 = IPv4Address(f"198.18.1.{number}"), IPv6Address(f"2001:db8:1::{number}")
    data, data6 = ({"VNI": 1, "VtepMAC": vtep_mac(one, 1)} if kind == "vxlan" else None for one in (address, address6))
    v4 = FamilyLease(subnet=IPv4Network(f"10.5.{number}.0/24"), public_ip=address, data=data)
    v6 = FamilyLease(subnet=IPv6Network(f"fd42:0:0:{number}::/64"), public_ip=address6, data=data6)
    return Lease(v4=v4, v6=v6 if dual else None, backend_type=kind)


def program(host: str, kind: str, *numbers: int, dual: bool) -> ConvergeReport:
    """Open a backend in the namespace and apply it for the peers with these numbers."""
    own = lease(1, kind, dual=dual)

    def call() -> ConvergeReport:
        underlay = choose(ifaces=("eth0",), iface_regexes=(), can_reach=None, public_ip=None, public_ipv6=None)
        backend: Any = backends.load(kind).from_config({}, Environment(network=CONFIGS[dual], underlay=underlay))
        backend.open(own)
        try:
            return backend.apply(own, [lease(number, kind, dual=dual) for number in numbers])  # type: ignore[no-any-return]
        finally:
            backend.close()

    return inside(host, call)


def routes(host: str) -> str:
    """The routes of both IP versions, without those that the kernel makes for each interface."""
    said = [namespaces.run(host, ["ip", family, "route"]) for family in ("-4", "-6")]
    # Whether the kernel has noticed yet that a bridge has no port does not belong to the route.
    lines = [line.replace(" linkdown", "") for text in said for line in text.splitlines()]
    return "\n".join(sorted(line.strip() for line in lines if "fe80::/64" not in line))


def not_ours(host: str) -> str:
    """The same without our routes: those with our protocol number or on a device of ours."""
    return "\n".join(one for one in routes(host).splitlines() if "proto 157" not in one and "dev overlay" not in one)


@pytest.mark.parametrize("dual", [False, True], ids=["IPv4", "dual stack"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_route_of_others_is_there_while_a_network_is_served_and_after(host: str, kind: str, dual: bool) -> None:
    if dual and kind not in DUAL:
        pytest.skip(f"{kind} has IPv4 only, or no routes")
    before = routes(host)
    report = program(host, kind, *range(2, 10), 20, dual=dual)
    assert not_ours(host) == before
    assert report.problems == ()
    assert not any("10.5.20.0" in name or "10.5.7.0" in name for name in report.peer_problems)
    if kind != "alloc":
        # Keyed by host number; the subnets in 10.5.8.0/21 are part of the destination of another route.
        told = {int(name.split(".")[2]) for name in report.peer_problems}
        assert told == {2, 3, 4, 5, 6, 8, 9}
        assert "docker network ls" in report.peer_problems[lease(2, kind, dual=dual).key_name]
        assert program(host, kind, *range(2, 10), 20, dual=dual).written == 0
    inside(host, lambda: list(netlink.cleanup()))
    assert routes(host) == before


def test_a_peer_is_served_once_the_conflicting_route_is_gone(host: str) -> None:
    problem = program(host, "vxlan", 3, dual=False).peer_problems[lease(3, "vxlan", dual=False).key_name]
    command = problem.partition("if nobody needs it: ")[2]
    namespaces.run(host, command.split())
    assert program(host, "vxlan", 3, dual=False).peer_problems == {}
    assert "10.5.3.0/24 via 10.5.3.0 dev overlay.1 proto 157 onlink" in routes(host)


def test_a_network_that_comes_after_the_lease_gets_its_route_back(host: str) -> None:
    assert program(host, "vxlan", 20, dual=True).peer_problems == {}
    namespaces.ip(
        host,
        "link add br-8 type bridge",
        "link set br-8 up",
        "address add 10.5.20.1/24 dev br-8",
        "address add fd42:0:0:14::1/64 dev br-8 nodad",
    )
    report = program(host, "vxlan", 20, dual=True)
    assert "br-8 is a network of this host's own" in report.peer_problems[lease(20, "vxlan", dual=True).key_name]
    found = [line for line in routes(host).splitlines() if "10.5.20." in line or "fd42:0:0:14:" in line]
    assert found
    assert all("dev br-8" in line for line in found), found


@pytest.mark.parametrize("metric", ["", " metric 100"])
def test_the_route_of_the_whole_network_takes_no_route_of_others(host: str, metric: str) -> None:
    namespaces.ip(host, WHOLE + metric)
    before = routes(host)
    with pytest.raises(NetworkConfigError, match=r"^10\.5\.0\.0/16 via 198\.18\.1\.97 dev eth0") as caught:
        program(host, "udp", 20, dual=False)
    assert not_ours(host) == before
    command = caught.value.message.partition("if nobody needs it: ")[2]
    namespaces.run(host, command.split())
    assert program(host, "udp", 20, dual=False).problems == ()


def test_a_route_that_appears_at_the_last_moment_is_not_replaced(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program(host, "vxlan", dual=True)
    apply = netlink.apply

    def later(operations: Any) -> Any:
        # Others add a route between our look and our write.
        namespaces.ip(host, "route add 10.5.20.0/24 via 198.18.1.99", "route add fd42:0:0:14::/64 via 2001:db8:1::99")
        return apply(operations)

    monkeypatch.setattr(netlink, "apply", partial(_once, [later, apply]))
    report = program_only(host, 20)
    monkeypatch.undo()
    assert "File exists" in str(report.peer_problems)
    assert "10.5.20.0/24 via 198.18.1.99" in routes(host)
    assert "fd42:0:0:14::/64 via 2001:db8:1::99" in routes(host)
    assert "fd42:0:0:14::/64 via fd42" not in routes(host)


def _once(calls: list[Any], operations: Any) -> Any:
    call = calls.pop(0) if len(calls) > 1 else calls[0]
    return call(operations)


def program_only(host: str, number: int) -> ConvergeReport:
    """Apply for one peer, without opening the backend again."""
    own = lease(1, "vxlan", dual=True)

    def call() -> ConvergeReport:
        underlay = choose(ifaces=("eth0",), iface_regexes=(), can_reach=None, public_ip=None, public_ipv6=None)
        environment = Environment(network=CONFIGS[True], underlay=underlay)
        return backends.load("vxlan").from_config({}, environment).apply(own, [lease(number, "vxlan", dual=True)])

    return inside(host, call)


def test_a_tun_device_of_others_with_our_name_is_left_alone(host: str) -> None:
    namespaces.run(host, ["ip", "tuntap", "add", "overlay0", "mode", "tun"])
    namespaces.ip(host, "link set overlay0 mtu 1300 up", "address add 192.0.2.1/24 dev overlay0")
    shown = ["ip", "-o", "link", "show", "overlay0"]
    before = namespaces.run(host, shown)
    with pytest.raises(KernelRefused, match="link add overlay0 mode tun: File exists"):
        program(host, "udp", 20, dual=False)
    assert namespaces.run(host, shown) == before


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One host with a daemon."""
    with laboratory(tmp_path_factory.mktemp("others"), {"Type": "vxlan"}) as lab:
        host_on(lab, "a", "10.5.20.0/24")
        yield lab


def test_a_docker_network_on_a_peers_subnet_keeps_its_containers(lab: Lab) -> None:
    """A Docker network has 10.5.77.0/24; a peer gets a lease of that subnet, and releases it."""
    (a,) = lab.hosts
    a.run("ip", "link", "add", "br-n2", "type", "bridge")
    a.run("ip", "link", "set", "br-n2", "up")
    a.run("ip", "address", "add", "10.5.77.1/24", "dev", "br-n2")
    before = a.run("ip", "route", "show", "10.5.77.0/24")
    key = "/coreos.com/network/subnets/10.5.77.0-24"
    value = '{"PublicIP":"198.18.1.77","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:11:22:33:44:55"}}'
    lab.etcdctl("put", key, value)

    def said() -> str:
        (peer,) = a.status().get("peers") or [{}]
        return peer.get("problem") or ""

    eventually("the status says so", lambda: "its subnet 10.5.77.0/24 holds br-n2's network 10.5.77.0/24" in said())
    assert a.run("ip", "route", "show", "10.5.77.0/24") == before
    assert a.status()["state"] == "ready"
    assert "docker network ls" in said()
    assert a.call("status").returncode == 1
    findings = json.loads(a.call("doctor", "--json", "--no-arp").stdout)["findings"]
    (bounds,) = (one for one in findings if one["name"] == "network-bounds")
    assert (bounds["state"], "br-n2's network 10.5.77.0/24" in bounds["found"]) == ("warning", True)
    lab.etcdctl("del", key)
    eventually("the lease is gone", lambda: not a.status()["peers"])
    assert a.run("ip", "route", "show", "10.5.77.0/24") == before
    assert a.call("status").returncode == 0

"""The real kernel: we read back what we wrote, and objects of others stay as they are."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from overlayd import backends
from overlayd.backends.environment import Environment
from overlayd.backends.vxlan import vtep_mac
from overlayd.errors import KernelRefused
from overlayd.kernel import netlink
from overlayd.kernel.converge import ConvergeReport
from overlayd.kernel.monitor import Monitor
from overlayd.kernel.state import FdbEntry, Link, Neighbour, Route
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import parse_network_config
from overlayd.underlay.choose import Underlay, choose
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually

ONE = parse_network_config('{"Network": "10.5.0.0/16"}')
DUAL = parse_network_config('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd42::/48"}')
NAMES = ("vxlan", "host-gw", "udp")
DUAL_NAMES = ("vxlan", "host-gw")


@pytest.fixture
def host() -> Iterator[str]:
    """A namespace with an underlay interface and nothing of ours."""
    name = namespaces.unique("state")
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
        )
        namespaces.run(name, ["sysctl", "-q", "-w", "net.ipv4.ip_forward=0"])
        yield name
    finally:
        namespaces.remove(name)


def underlay(host: str) -> Underlay:
    """The namespace's underlay."""
    return inside(
        host, lambda: choose(ifaces=("eth0",), iface_regexes=(), can_reach=None, public_ip=None, public_ipv6=None)
    )


def lease(number: int, kind: str, *, dual: bool = False) -> Lease:
    """The lease of the host with that number."""
    address, address6 = IPv4Address(f"198.18.1.{number}"), IPv6Address(f"2001:db8:1::{number}")
    data, data6 = ({"VNI": 1, "VtepMAC": vtep_mac(one, 1)} if kind == "vxlan" else None for one in (address, address6))
    v4 = FamilyLease(subnet=IPv4Network(f"10.5.{number}.0/24"), public_ip=address, data=data)
    v6 = FamilyLease(subnet=IPv6Network(f"fd42:0:0:{number}::/64"), public_ip=address6, data=data6)
    return Lease(v4=v4, v6=v6 if dual else None, backend_type=kind)


def program(
    host: str, kind: str, *peers: Lease, dual: bool = False, blackhole: bool = False, **config: Any
) -> ConvergeReport:
    """Open a backend in the namespace and apply it for these peers."""
    environment = Environment(network=DUAL if dual else ONE, underlay=underlay(host), blackhole=blackhole)
    backend = backends.load(kind).from_config(config, environment)
    own = lease(1, kind, dual=dual)

    def call() -> ConvergeReport:
        backend.open(own)
        try:
            return backend.apply(own, peers)
        finally:
            backend.close()

    return inside(host, call)


@pytest.mark.parametrize("kind", NAMES)
def test_the_same_twice_writes_nothing(host: str, kind: str) -> None:
    peers = [lease(number, kind) for number in range(2, 30)]
    first = program(host, kind, *peers)
    assert (first.problems, first.peer_problems) == ((), {})
    assert first.written == {"vxlan": 3, "host-gw": 1, "udp": 0}[kind] * len(peers)
    assert program(host, kind, *peers).written == 0


@pytest.mark.parametrize("kind", DUAL_NAMES)
def test_both_families_twice_write_nothing_the_second_time(host: str, kind: str) -> None:
    peers = [lease(number, kind, dual=True) for number in range(2, 9)]
    first = program(host, kind, *peers, dual=True, blackhole=True)
    assert (first.problems, first.peer_problems) == ((), {})
    assert first.written == {"vxlan": 6, "host-gw": 2}[kind] * len(peers)
    assert program(host, kind, *peers, dual=True, blackhole=True).written == 0
    routes = namespaces.run(host, ["ip", "-6", "route"])
    assert "blackhole fd42:0:0:1::/64" in routes
    assert "fd42:0:0:8::/64 via" in routes
    assert list(inside(host, lambda: list(netlink.cleanup())))
    assert "fd42" not in namespaces.run(host, ["ip", "-6", "route"])


def test_only_interfaces_that_used_router_advertisements_go_on_accepting_them(host: str) -> None:
    settings = [f"net.ipv6.conf.{name}" for name in ("eth0.accept_ra", "other.accept_ra", "default.accept_ra")]
    namespaces.run(host, ["sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=0", *(f"{one}=1" for one in settings)])
    namespaces.run(host, ["ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0", "proto", "ra"])
    program(host, "host-gw", dual=True)
    said = namespaces.run(host, ["sysctl", "-n", "net.ipv6.conf.all.forwarding", *settings])
    assert said.split() == ["1", "2", "1", "1"]


@pytest.mark.parametrize("dual", [False, True], ids=["IPv4", "dual stack"])
def test_our_devices_accept_no_advertisement_and_no_redirect_even_after_a_change(host: str, dual: bool) -> None:
    names = ["overlay.1", "overlay-v6.1"] if dual else ["overlay.1"]
    program(host, "vxlan", dual=dual)
    wanted = {name: settings_of(host, name) for name in names}
    for name, found in wanted.items():
        assert found["disable_ipv6"] == str(int(name == "overlay.1"))
        assert {found[key] for key in ("accept_ra", "accept_redirects", "autoconf")} == {"0"}
        namespaces.run(host, ["sysctl", "-q", "-w", f"net/ipv6/conf/{name}/accept_ra=2"])
    program(host, "vxlan", dual=dual)
    assert {name: settings_of(host, name) for name in names} == wanted
    assert program(host, "vxlan", dual=dual).written == 0


def settings_of(host: str, name: str) -> dict[str, str]:
    """Which router advertisements and redirects an interface accepts."""
    keys = ("accept_ra", "accept_redirects", "autoconf", "disable_ipv6")
    said = namespaces.run(host, ["sysctl", "-n", *(f"net/ipv6/conf/{name}/{key}" for key in keys)])
    return dict(zip(keys, said.split(), strict=True))


@pytest.mark.parametrize("config", [{"GBP": True}, {"Learning": True}, {"VNI": 77, "Port": 4789}, {"MTU": 1400}])
def test_every_option_of_vxlan_is_read_back_as_written(host: str, config: dict[str, Any]) -> None:
    program(host, "vxlan", **config)
    assert program(host, "vxlan", **config).written == 0


@pytest.mark.parametrize("dual", [False, True], ids=["IPv4", "dual stack"])
def test_a_changed_mtu_removes_no_neighbour(host: str, dual: bool) -> None:
    peers = [lease(number, "vxlan", dual=dual) for number in range(2, 5)]
    program(host, "vxlan", *peers, dual=dual)
    before = inside(host, netlink.read)
    # Opening the backend changes the link; the kernel removes nothing that we would have to write again.
    assert program(host, "vxlan", *peers, dual=dual, MTU=1400).written == 0
    after = inside(host, netlink.read)
    assert {link.mtu_bytes for link in after.all_of(Link)} == {1330 if dual else 1350}
    kinds = (Neighbour, FdbEntry, Route)
    assert after.all_of(*kinds) == before.all_of(*kinds)


def test_a_device_with_another_vni_and_group_policy_replaces_the_first(host: str) -> None:
    # On one port all devices have group policy or none, so the old device has to go before the new one is made.
    program(host, "vxlan", lease(2, "vxlan"))
    program(host, "vxlan", VNI=7, GBP=True)
    assert {link.name for link in inside(host, netlink.read).all_of(Link)} == {"overlay.7"}


def test_somebody_elses_device_with_other_flags_on_our_port_is_named(host: str) -> None:
    namespaces.ip(host, "link add flannel.9 type vxlan id 9 dstport 8472 local 198.18.1.1 dev eth0 nolearning")
    namespaces.ip(host, "link set flannel.9 up")
    with pytest.raises(KernelRefused, match="flannel") as caught:
        program(host, "vxlan", GBP=True)
    assert caught.value.errno == errno.EADDRINUSE


def test_another_backend_replaces_the_first(host: str) -> None:
    program(host, "vxlan", lease(2, "vxlan"))
    program(host, "host-gw", lease(2, "host-gw"))
    assert "overlay" not in namespaces.run(host, ["ip", "link"])
    assert "10.5.2.0/24 via 198.18.1.2 dev eth0 proto 157" in namespaces.run(host, ["ip", "route"])


@pytest.mark.parametrize("kind", ["host-gw", "auto"])
def test_an_ipv6_peer_changes_from_a_plain_route_to_vxlan(host: str, kind: str) -> None:
    assert program(host, kind, lease(2, "vxlan" if kind == "auto" else kind, dual=True), dual=True).peer_problems == {}
    assert program(host, "vxlan", lease(2, "vxlan", dual=True), dual=True).peer_problems == {}
    routes = namespaces.run(host, ["ip", "-6", "route", "show", "proto", "157"]).splitlines()
    assert [line.split(" metric")[0].strip() for line in routes] == [
        "fd42:0:0:2::/64 via fd42:0:0:2:: dev overlay-v6.1"
    ]


def test_a_wide_ipv6_route_of_others_does_not_keep_vxlan_from_its_peers(host: str) -> None:
    namespaces.ip(host, "route add fd00::/8 via 2001:db8:1::9 dev eth0")
    assert program(host, "vxlan", lease(2, "vxlan", dual=True), dual=True).peer_problems == {}
    assert program(host, "vxlan", lease(2, "vxlan", dual=True), dual=True).written == 0
    assert "fd00::/8 via 2001:db8:1::9" in namespaces.run(host, ["ip", "-6", "route"])


def test_opening_deletes_nothing(host: str) -> None:
    program(host, "vxlan", lease(2, "vxlan"))
    before = inside(host, netlink.read)
    backend = backends.load("vxlan").from_config({}, Environment(network=ONE, underlay=underlay(host)))
    inside(host, lambda: backend.open(lease(1, "vxlan")))
    assert inside(host, netlink.read) == before


def test_a_peer_that_the_kernel_refuses_is_reported_and_the_others_are_served(host: str) -> None:
    # The peer has a second address of this host, which cannot be a gateway.
    namespaces.ip(host, "address add 2001:db8:1::200/128 dev eth0 preferred_lft 0 nodad")
    report = program(host, "host-gw", *(lease(number, "host-gw", dual=True) for number in (2, 200)), dual=True)
    assert list(report.peer_problems) == [lease(200, "host-gw", dual=True).key_name]
    assert "route add fd42:0:0:200::/64 via 2001:db8:1::200 dev eth0: Invalid" in str(report.peer_problems)
    assert "10.5.2.0/24" in namespaces.run(host, ["ip", "route"])


def test_somebody_elses_device_with_our_vni_is_left_alone_and_named(host: str) -> None:
    namespaces.ip(host, "link add flannel.1 type vxlan id 1 dstport 8472 local 198.18.1.1 dev eth0 nolearning")
    with pytest.raises(KernelRefused, match="flannel") as caught:
        program(host, "vxlan")
    assert caught.value.errno == errno.EEXIST
    assert "flannel.1" in namespaces.run(host, ["ip", "link"])


def test_a_device_that_was_left_incomplete_is_completed(host: str) -> None:
    mac = vtep_mac(IPv4Address("198.18.1.1"), 1)
    namespaces.ip(
        host,
        f"link add overlay.1 address {mac} type vxlan id 1 dstport 8472 local 198.18.1.1 dev eth0 nolearning",
    )
    program(host, "vxlan", lease(2, "vxlan"))
    assert program(host, "vxlan", lease(2, "vxlan")).written == 0
    assert list(inside(host, lambda: list(netlink.cleanup())))
    assert "overlay" not in namespaces.run(host, ["ip", "link"])


def test_cleanup_leaves_foreign_routes_and_devices(host: str) -> None:
    namespaces.ip(
        host, "route add 10.5.9.0/24 via 198.18.1.9", "link add overlayer type bridge", "link set overlayer up"
    )
    before = namespaces.run(host, ["ip", "-br", "link"]) + namespaces.run(host, ["ip", "route"])
    program(host, "vxlan", lease(2, "vxlan"))
    inside(host, lambda: list(netlink.cleanup()))
    assert namespaces.run(host, ["ip", "-br", "link"]) + namespaces.run(host, ["ip", "route"]) == before


def test_the_monitor_reports_a_change_and_stops_on_request(host: str) -> None:
    calls: list[int] = []
    monitor = inside(host, lambda: Monitor(lambda: calls.append(1)))
    monitor.start()
    try:
        assert calls == []
        namespaces.ip(host, "route add 10.99.0.0/24 via 198.18.1.9")
        eventually("a call", lambda: calls)
    finally:
        monitor.stop()
    heard = len(calls)
    namespaces.ip(host, "route delete 10.99.0.0/24")
    assert len(calls) == heard

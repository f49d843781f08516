"""Network config and leases in, desired kernel state out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from overlayd import backends
from overlayd.backends.environment import Environment
from overlayd.backends.host_gw import HostGw
from overlayd.backends.listening import Listening
from overlayd.backends.peers import PeerTable, select_peers
from overlayd.backends.udp import Udp
from overlayd.backends.vxlan import Vxlan, vtep_mac
from overlayd.errors import ConfigError, NetworkConfigError, UnsupportedError
from overlayd.host.backend import load_backend, unknown_keys
from overlayd.kernel.state import Address, FdbEntry, Neighbour, Route, Sysctl
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import parse_network_config
from overlayd.underlay.choose import Underlay, UnderlayEndpoint

CONFIG = parse_network_config('{"Network": "10.5.0.0/16"}')
DUAL = parse_network_config('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd42::/48"}')
UNDERLAY = Underlay(
    ifname="eth0",
    ifindex=2,
    mtu_bytes=1500,
    reason="iface eth0",
    v4=UnderlayEndpoint(
        address=IPv4Address("198.18.1.1"),
        public_ip=IPv4Address("198.18.1.1"),
        on_link=(IPv4Network("198.18.1.0/24"),),
    ),
    v6=UnderlayEndpoint(
        address=IPv6Address("2001:db8:1::1"),
        public_ip=IPv6Address("2001:db8:1::1"),
        on_link=(IPv6Network("2001:db8:1::/64"),),
    ),
)
ENVIRONMENT = Environment(network=CONFIG, underlay=UNDERLAY)
DUAL_ENVIRONMENT = Environment(network=DUAL, underlay=UNDERLAY)
OWN = Lease(
    v4=FamilyLease(subnet=IPv4Network("10.5.1.0/24"), public_ip=IPv4Address("198.18.1.1")), backend_type="vxlan"
)
OWN_DUAL = replace(OWN, v6=FamilyLease(subnet=IPv6Network("fd42:0:0:1::/64"), public_ip=IPv6Address("2001:db8:1::1")))


def peer(number: int, *, backend: str = "vxlan", address: str | None = None, **data: Any) -> Lease:
    """A peer's lease."""
    public_ip = IPv4Address(address or f"198.18.1.{number}")
    published = {"VNI": 1, "VtepMAC": vtep_mac(public_ip, 1), **data} if backend == "vxlan" else None
    subnet = IPv4Network(f"10.5.{number}.0/24")
    return Lease(v4=FamilyLease(subnet=subnet, public_ip=public_ip, data=published), backend_type=backend)


def dual_peer(number: int, *, backend: str = "vxlan") -> Lease:
    """A peer's lease with both families."""
    public_ip = IPv6Address(f"2001:db8:1::{number}")
    published = {"VNI": 1, "VtepMAC": vtep_mac(public_ip, 1)} if backend == "vxlan" else None
    family_lease = FamilyLease(subnet=IPv6Network(f"fd42:0:0:{number}::/64"), public_ip=public_ip, data=published)
    return replace(peer(number, backend=backend), v6=family_lease)


def moved(lease: Lease, subnet: str) -> Lease:
    """The same host's lease of another subnet."""
    assert lease.v4 is not None
    return replace(lease, v4=replace(lease.v4, subnet=IPv4Network(subnet)))


def seen_as(public_ip: str) -> Underlay:
    """The underlay behind an address translation."""
    assert UNDERLAY.v4 is not None
    return replace(UNDERLAY, v4=replace(UNDERLAY.v4, public_ip=IPv4Address(public_ip)))


def vxlan(**config: Any) -> Vxlan:
    """A vxlan backend with this config."""
    return Vxlan.from_config(config, ENVIRONMENT)


def test_an_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        backends.load("gre")
    assert str(caught.value).endswith(f"known: {', '.join(backends.names())}")
    assert {"vxlan", "host-gw", "udp"} <= set(backends.names())


@pytest.mark.parametrize(
    ("name", "overhead_bytes"),
    [("vxlan", 50), ("auto", 50), ("host-gw", 0), ("alloc", 0), ("udp", 28), ("ipip", 20)],
)
def test_the_mtu_is_the_underlays_less_the_encapsulation(name: str, overhead_bytes: int) -> None:
    backend = backends.load(name).from_config({}, ENVIRONMENT)
    assert backend.facts.name == name
    assert backend.mtu_bytes == 1500 - overhead_bytes


@pytest.mark.parametrize(
    ("name", "config", "listens"),
    [
        ("vxlan", {"Port": 4789}, [Listening(version=4, protocol="udp", port=4789)]),
        ("auto", {}, [Listening(version=4, protocol="udp", port=8472)]),
        ("udp", {}, [Listening(version=4, protocol="udp", port=8285)]),
        ("ipip", {}, [Listening(version=4, protocol="4")]),
        ("wireguard", {}, [Listening(version=4, protocol="udp", port=51820, anyone=True)]),
        ("host-gw", {}, []),
        ("alloc", {}, []),
        ("extension", {}, []),
    ],
)
def test_each_backend_says_what_it_listens_to(name: str, config: dict[str, Any], listens: list[Listening]) -> None:
    assert list(backends.load(name).from_config(config, ENVIRONMENT).listens) == listens


def test_in_two_families_it_listens_in_both() -> None:
    vxlan = backends.load("vxlan").from_config({}, DUAL_ENVIRONMENT)
    assert [(one.version, one.port) for one in vxlan.listens] == [(4, 8472), (6, 8472)]
    wireguard = backends.load("wireguard").from_config({}, DUAL_ENVIRONMENT)
    assert [(one.version, one.port) for one in wireguard.listens] == [(4, 51820), (6, 51821)]
    over_ipv4 = backends.load("wireguard").from_config({"Mode": "ipv4"}, DUAL_ENVIRONMENT)
    assert [(one.version, one.port) for one in over_ipv4.listens] == [(4, 51820)]


def test_keys_are_read_without_regard_to_case() -> None:
    backend = vxlan(vni=7, PORT=4789, directrouting=True)
    assert (backend.vni, backend.port, backend.direct) == (7, 4789, True)
    assert backend.devices == ("overlay.7", "eth0")


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("vxlan", {"VNI": "one"}, "VNI.*'one'.*number"),
        ("vxlan", {"VNI": 2**24}, "VNI.*16777216"),
        ("vxlan", {"Port": True}, "Port.*True"),
        ("vxlan", {"Learning": "yes"}, "Learning.*'yes'.*true or false"),
        ("udp", {"Port": 70000}, "Port.*70000"),
        ("vxlan", {"Port": 53}, "Port of backend vxlan is 53.*1024 to 65535"),
        ("udp", {"Port": 1023}, "Port of backend udp is 1023"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, config: dict[str, Any], said: str) -> None:
    with pytest.raises(NetworkConfigError) as caught:
        backends.load(name).from_config(config, ENVIRONMENT)
    assert re.search(said, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize("name", backends.names())
def test_a_key_that_a_backend_has_not_is_read_over_and_said(name: str) -> None:
    config = parse_network_config(
        json.dumps({"Network": "10.5.0.0/16", "Note": 1, "Backend": {"Type": name, "Comment": "x", "MacPrefix": "0E"}})
    )
    assert load_backend(config, UNDERLAY).facts.name == name
    said = [text for text, _known in unknown_keys(config)]
    assert [text.rpartition("key ")[2] for text in said[1:]] == ["'Comment'", "'MacPrefix'"]
    assert said[0] == "'Note' is not a key of the network config"
    # It is the same network.
    assert replace(config, unknown=()) == config


def test_an_underlay_too_small_is_a_config_error() -> None:
    with pytest.raises(NetworkConfigError, match="MTU"):
        Vxlan.from_config({}, replace(ENVIRONMENT, underlay=replace(UNDERLAY, mtu_bytes=100)))


def test_an_underlay_too_small_for_ipv6_is_a_config_error() -> None:
    assert (
        Vxlan.from_config({}, replace(DUAL_ENVIRONMENT, underlay=replace(UNDERLAY, mtu_bytes=1350))).mtu_bytes == 1280
    )
    with pytest.raises(NetworkConfigError, match="1280"):
        Vxlan.from_config({}, replace(DUAL_ENVIRONMENT, underlay=replace(UNDERLAY, mtu_bytes=1349)))


def test_more_than_the_underlay_has_is_a_config_error() -> None:
    with pytest.raises(NetworkConfigError, match="9000, and that of this host's eth0 is 1500"):
        vxlan(MTU=9000)


@pytest.mark.parametrize("vni", [1, 9999, 10_000, 9_999_999, 10_000_000, 2**24 - 1])
def test_every_vni_makes_two_names_that_a_device_can_have(vni: int) -> None:
    devices = Vxlan.from_config({"VNI": vni}, DUAL_ENVIRONMENT).devices
    assert len(set(devices)) == 2
    assert all(len(name) <= 15 and name.startswith("overlay") for name in devices)


def test_host_gw_needs_its_own_address() -> None:
    with pytest.raises(UnsupportedError, match="public-ip"):
        HostGw.from_config({}, replace(ENVIRONMENT, underlay=seen_as("198.19.0.9")))


def test_the_mac_is_stable_local_and_unicast() -> None:
    mac = vtep_mac(IPv4Address("198.18.1.1"), 1)
    assert mac == vtep_mac(IPv4Address("198.18.1.1"), 1) != vtep_mac(IPv4Address("198.18.1.1"), 2)
    assert int(mac[:2], 16) & 0b11 == 0b10
    assert vxlan().lease_data(4) == {"VNI": 1, "VtepMAC": mac}


def test_a_vxlan_peer_needs_a_neighbour_a_forwarding_entry_and_a_route() -> None:
    state = vxlan().plan(OWN, [peer(2)]).state()
    mac = vtep_mac(IPv4Address("198.18.1.2"), 1)
    assert {str(item) for item in state.all_of(Route, Neighbour, FdbEntry, Address)} == {
        "10.5.2.0/24 via 10.5.2.0 dev overlay.1 onlink",
        f"10.5.2.0 lladdr {mac} dev overlay.1",
        f"{mac} dev overlay.1 dst 198.18.1.2",
        "10.5.1.0/32 dev overlay.1",
    }


def test_direct_routing_takes_the_plain_way_where_there_is_one() -> None:
    state = vxlan(DirectRouting=True).plan(OWN, [peer(2), peer(3, address="198.19.7.7")]).state()
    assert {str(route) for route in state.all_of(Route)} == {
        "10.5.2.0/24 via 198.18.1.2 dev eth0",
        "10.5.3.0/24 via 10.5.3.0 dev overlay.1 onlink",
    }
    assert len(state.all_of(FdbEntry)) == 1


def test_flannels_upper_case_mac_is_understood() -> None:
    plan = vxlan().plan(OWN, [peer(2, VtepMAC="AA:BB:CC:DD:EE:0F")])
    assert plan.problems == {}
    assert {entry.mac for entry in plan.state().all_of(FdbEntry)} == {"aa:bb:cc:dd:ee:0f"}


@pytest.mark.parametrize(
    ("lease", "said"),
    [
        (peer(2, backend="udp"), "backend is udp"),
        (peer(2, VtepMAC=None), "VtepMAC"),
        (peer(2, VtepMAC="zz:00:00:00:00:01"), "VtepMAC"),
        (peer(2, VtepMAC="01:00:5e:00:00:01"), "not one of a host"),
        (peer(2, VtepMAC=vtep_mac(OWN.public_ip, 1)), "also that of 198.18.1.1"),
        (peer(2, VNI=9), "VNI"),
        (peer(2, address="224.0.0.5"), "not one of a host"),
        (moved(peer(2), "0.0.0.0/0"), "outside the network"),
        (moved(peer(2), "10.5.1.128/25"), "overlaps ours"),
        (peer(2, address="198.18.1.1"), "is this host's own"),
    ],
)
def test_a_peer_that_cannot_be_used_is_named_and_the_others_are_served(lease: Lease, said: str) -> None:
    plan = vxlan().plan(OWN, [lease, peer(3)])
    assert said in plan.problems[lease.key_name]
    assert {route.dst for route in plan.state().all_of(Route)} == {IPv4Network("10.5.3.0/24")}


@pytest.mark.parametrize("name", ["vxlan", "host-gw", "udp", "ipip"])
@pytest.mark.parametrize(
    ("subnet", "said"),
    [("10.5.2.0/24", "is also that of 198.18.1."), ("10.5.2.0/25", "overlaps 10.5.2.0/24 of 198.18.1.")],
)
def test_of_two_peers_with_one_subnet_the_same_one_is_always_served(name: str, subnet: str, said: str) -> None:
    backend: Any = backends.load(name).from_config({}, ENVIRONMENT)
    first = peer(2, backend=name)
    second = replace(
        moved(peer(3, backend=name), subnet), v6=dual_peer(3, backend=name).v6 if subnet == "10.5.2.0/24" else None
    )
    for order in ([first, second], [second, first]):
        plan = backend.plan(OWN, order)
        assert list(plan.problems) == [second.key_name]
        assert said in plan.problems[second.key_name]


def test_a_lease_that_holds_this_hosts_own_address_would_cut_it_off() -> None:
    wide = parse_network_config('{"Network": "198.18.0.0/15", "SubnetLen": 24}')
    backend = Vxlan.from_config({}, replace(ENVIRONMENT, network=wide))
    own, bad, good = moved(OWN, "198.18.9.0/24"), moved(peer(2), "198.18.1.0/24"), moved(peer(3), "198.18.7.0/24")
    plan = backend.plan(own, [bad, good])
    assert "eth0's network 198.18.1.0/24" in plan.problems[bad.key_name]
    assert list(plan.peers) == [good.key_name]


def test_one_host_with_two_subnets_is_served_on_both() -> None:
    second = moved(peer(2), "10.5.20.0/24")
    plan = vxlan().plan(OWN, [peer(2), second])
    assert plan.problems == {}
    assert len(plan.state().all_of(Route)) == 2
    assert len(plan.state().all_of(FdbEntry)) == 1


def test_host_gw_routes_through_the_peer_itself_if_it_is_on_link() -> None:
    backend = HostGw.from_config({}, ENVIRONMENT)
    near, far = peer(2, backend="host-gw"), peer(3, backend="host-gw", address="198.19.0.3")
    plan = backend.plan(OWN, [near, far])
    assert plan.state().all_of(Route) == {Route(dst=IPv4Network("10.5.2.0/24"), link="eth0", via=near.public_ip)}
    assert "198.19.0.3" in plan.problems[far.key_name]


def test_udp_routes_the_whole_network_to_its_device() -> None:
    backend = Udp.from_config({"Port": 9000}, ENVIRONMENT)
    state = backend.plan(OWN, [peer(2, backend="udp")]).state()
    assert {str(route) for route in state.all_of(Route)} == {"10.5.0.0/16 dev overlay0"}


def test_the_peer_table_knows_the_way_and_the_sources() -> None:
    wide = moved(peer(2, backend="udp"), "10.5.32.0/20")
    narrow = peer(33, backend="udp", address="198.18.1.9")
    table = PeerTable([wide, narrow], 8285)
    assert table.find_host(int(IPv4Address("10.5.40.1"))) == ("198.18.1.2", 8285)
    assert table.find_host(int(IPv4Address("10.5.33.1"))) == ("198.18.1.9", 8285)
    assert table.find_host(int(IPv4Address("10.5.99.1"))) is None
    assert table.sources("198.18.1.200") is None
    sources = table.sources("198.18.1.9")
    assert sources is not None
    inside, outside = int(IPv4Address("10.5.33.7")), int(IPv4Address("10.5.34.7"))
    assert any(inside >> shift == base for shift, base in sources)
    assert not any(outside >> shift == base for shift, base in sources)


def test_refusals_leave_good_peers_alone() -> None:
    judged = select_peers([peer(3), peer(2)], own=OWN, network=CONFIG, backend_type="vxlan")
    assert (judged.served, judged.problems, judged.unlisted) == ((peer(2), peer(3)), {}, 0)


def test_a_dual_stack_peer_is_reached_by_a_device_for_each_family() -> None:
    backend = Vxlan.from_config({}, DUAL_ENVIRONMENT)
    assert backend.mtu_bytes == 1500 - 70
    assert backend.devices == ("overlay.1", "overlay-v6.1")
    state = backend.plan(OWN_DUAL, [dual_peer(2)]).state()
    mac = vtep_mac(IPv6Address("2001:db8:1::2"), 1)
    assert {
        "fd42:0:0:2::/64 via fd42:0:0:2:: dev overlay-v6.1 onlink",
        f"fd42:0:0:2:: lladdr {mac} dev overlay-v6.1",
        f"{mac} dev overlay-v6.1 dst 2001:db8:1::2",
        "fd42:0:0:1::/128 dev overlay-v6.1",
        "10.5.2.0/24 via 10.5.2.0 dev overlay.1 onlink",
    } <= {str(item) for item in state.all_of(Route, Neighbour, FdbEntry, Address)}
    hosts = {sysctl.name for sysctl in state.all_of(Sysctl) if sysctl.link is None}
    assert hosts == {"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}
    settings = {sysctl.name: sysctl.value for sysctl in state.all_of(Sysctl)}
    assert settings["net/ipv6/conf/overlay.1/disable_ipv6"] == "1"
    assert settings["net/ipv6/conf/overlay-v6.1/disable_ipv6"] == "0"
    assert settings["net/ipv6/conf/overlay-v6.1/accept_ra"] == "0"


def test_a_peer_of_one_family_is_served_in_a_dual_stack_network() -> None:
    plan = Vxlan.from_config({}, DUAL_ENVIRONMENT).plan(OWN_DUAL, [peer(2), dual_peer(3)])
    assert plan.problems == {}
    assert len(plan.state().all_of(Route)) == 3


def test_a_network_with_a_family_that_the_host_has_not_is_refused_with_the_interface() -> None:
    with pytest.raises(NetworkConfigError, match="fd42::/48, but this host's eth0 has none"):
        Environment(network=DUAL, underlay=replace(UNDERLAY, v6=None))


def test_udp_refuses_ipv6() -> None:
    with pytest.raises(NetworkConfigError, match="IPv4 only"):
        Udp.from_config({}, DUAL_ENVIRONMENT)


def test_auto_takes_plain_routes_where_it_can_and_says_so() -> None:
    auto = backends.load("auto").from_config({}, DUAL_ENVIRONMENT)
    assert isinstance(auto, Vxlan)
    near, far = dual_peer(2), peer(3, address="198.19.7.7")
    plan = auto.plan(OWN_DUAL, [near, far])
    assert plan.paths == {near.key_name: "direct", far.key_name: "vxlan"}
    assert {str(route) for route in plan.state().all_of(Route)} == {
        "10.5.2.0/24 via 198.18.1.2 dev eth0",
        "fd42:0:0:2::/64 via 2001:db8:1::2 dev eth0",
        "10.5.3.0/24 via 10.5.3.0 dev overlay.1 onlink",
    }
    assert backends.published_type("auto") == "vxlan"


def test_auto_behind_address_translation_encapsulates_for_everybody() -> None:
    auto = backends.load("auto").from_config({}, replace(ENVIRONMENT, underlay=seen_as("198.19.0.9")))
    assert isinstance(auto, Vxlan)
    assert set(auto.plan(OWN, [peer(2)]).paths.values()) == {"vxlan"}


def test_a_blackhole_takes_what_no_bridge_carries() -> None:
    plan = HostGw.from_config({}, replace(ENVIRONMENT, blackhole=True)).plan(OWN, [])
    assert {str(route) for route in plan.state().all_of(Route)} == {"blackhole 10.5.1.0/24 metric 2147483648"}

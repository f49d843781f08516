"""Interfaces and settings in, the underlay out: flannel's order of choice."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network

import pytest

from overlayd.errors import ConfigError
from overlayd.kernel.interfaces import Interface, RouteAnswer
from overlayd.lib.addresses import IPAddress
from overlayd.underlay.choose import Underlay, UnderlayEndpoint, follow, pick

# A Vagrant host: the default route is through a NAT that every host has, with one address for all.
LO = Interface(name="lo", index=1, mtu_bytes=65536, up=True, addresses=(IPv4Interface("127.0.0.1/8"),))
NAT = Interface(name="eth0", index=2, mtu_bytes=1500, up=True, addresses=(IPv4Interface("10.0.2.15/24"),))
LAN = Interface(
    name="eth1",
    index=3,
    mtu_bytes=9000,
    up=True,
    addresses=(IPv4Interface("169.254.9.9/16"), IPv4Interface("198.18.1.7/24"), IPv4Interface("198.18.2.7/24")),
)
BARE = Interface(name="eth2", index=4, mtu_bytes=1500, up=True)
HOST = (LO, NAT, LAN, BARE)
DEFAULT = RouteAnswer(ifindex=2, source=None)


def v4(underlay: Underlay) -> UnderlayEndpoint:
    assert underlay.v4 is not None
    return underlay.v4


def own(underlay: Underlay) -> IPAddress:
    return v4(underlay).address


def test_the_default_route_decides_if_nothing_else_does() -> None:
    found = pick(HOST, default=DEFAULT)
    assert (found.ifname, own(found)) == ("eth0", IPv4Address("10.0.2.15"))
    assert v4(found).public_ip == own(found)
    assert found.reason == "the default route"


def test_an_interface_is_given_by_name_or_by_address() -> None:
    by_name = pick(HOST, ifaces=("eth9", "eth1"), default=DEFAULT)
    assert (by_name.ifname, own(by_name), by_name.mtu_bytes) == ("eth1", IPv4Address("198.18.1.7"), 9000)
    by_address = pick(HOST, ifaces=("198.18.2.7",), default=DEFAULT)
    assert (by_address.ifname, own(by_address)) == ("eth1", IPv4Address("198.18.2.7"))


def test_expressions_look_at_addresses_first_and_names_second() -> None:
    assert own(pick(HOST, iface_regexes=(r"^198\.18\.2\.",))) == IPv4Address("198.18.2.7")
    assert pick(HOST, iface_regexes=("eth[1-9]",)).ifname == "eth1"
    # "1" is in an address of eth0, and in the name of eth1.
    assert pick(HOST[1:], iface_regexes=("1",)).ifname == "eth0"


def test_the_route_to_an_address_decides() -> None:
    target = IPv4Address("198.18.1.99")
    answer = RouteAnswer(ifindex=3, source=IPv4Address("198.18.1.7"))
    found = pick(HOST, reached=(target, answer), default=DEFAULT)
    assert (found.ifname, own(found)) == ("eth1", IPv4Address("198.18.1.7"))
    with pytest.raises(ConfigError, match="no route"):
        pick(HOST, reached=(target, None), default=DEFAULT)


def test_the_public_address_names_the_interface_that_has_it() -> None:
    found = pick(HOST, public_ip=IPv4Address("198.18.2.7"), default=DEFAULT)
    assert (found.ifname, own(found)) == ("eth1", IPv4Address("198.18.2.7"))


def test_a_public_address_behind_nat_is_published_as_it_is() -> None:
    found = pick(HOST, public_ip=IPv4Address("198.19.0.1"), default=DEFAULT)
    assert (own(found), v4(found).public_ip) == (IPv4Address("10.0.2.15"), IPv4Address("198.19.0.1"))


def test_an_interface_that_is_not_there_gives_a_list_of_those_that_are() -> None:
    with pytest.raises(ConfigError) as caught:
        pick(HOST, ifaces=("ens3",), iface_regexes=("^wg",))
    assert "ens3" in str(caught.value)
    assert "eth1 (198.18.1.7, 198.18.2.7)" in str(caught.value)
    assert "eth2 (no address)" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ifaces": ("eth2",)}, "eth2.*no address that"),
        ({"iface_regexes": ("(",)}, "not an expression"),
        ({"default": None}, "no default route"),
    ],
)
def test_what_cannot_be_chosen_is_a_config_error(settings: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pick(HOST, **settings)  # type: ignore[arg-type]


def test_hosts_on_the_interfaces_networks_are_reached_directly() -> None:
    found = pick(HOST, ifaces=("eth1",))
    assert v4(found).reaches_directly(IPv4Address("198.18.2.200"))
    assert not v4(found).reaches_directly(IPv4Address("198.18.3.1"))


LAN6 = replace(
    LAN,
    addresses=(*LAN.addresses, IPv6Interface("fe80::7/64"), IPv6Interface("2001:db8:1::7/64")),
)


def test_an_interface_serves_each_family_that_it_has_an_address_of() -> None:
    found = pick((LO, NAT, LAN6), ifaces=("2001:db8:1::7",), default=DEFAULT)
    assert own(found) == IPv4Address("198.18.1.7")
    assert found.v6 == UnderlayEndpoint(
        address=IPv6Address("2001:db8:1::7"),
        public_ip=IPv6Address("2001:db8:1::7"),
        on_link=(IPv6Network("2001:db8:1::/64"),),
    )
    assert pick(HOST, ifaces=("eth1",)).v6 is None


def test_an_ipv6_link_local_address_is_no_address_for_peers() -> None:
    only = Interface(name="eth3", index=5, mtu_bytes=1500, up=True, addresses=(IPv6Interface("fe80::7/64"),))
    with pytest.raises(ConfigError, match=r"eth3.*no address that"):
        pick((LO, only), ifaces=("eth3",))


def test_a_renamed_interface_is_the_same_one_and_one_without_its_address_is_not() -> None:
    before = pick((LO, NAT, LAN6), ifaces=("eth1",))
    renamed = replace(LAN6, name="lan0", mtu_bytes=1400)
    assert follow(before, (LO, NAT, renamed)) == replace(before, ifname="lan0", mtu_bytes=1400)
    assert follow(before, (LO, NAT, LAN)) is None
    assert follow(before, (LO, NAT)) is None


DOCKER = Interface(
    name="docker0",
    index=2,
    mtu_bytes=1450,
    up=True,
    addresses=(IPv4Interface("198.18.204.1/24"),),
    carries="a bridge of docker's",
)


def test_what_carries_containers_is_no_underlay_whatever_way_it_is_chosen() -> None:
    there = (LO, DOCKER, LAN)
    assert own(pick(there, iface_regexes=(r"^198\.18\.",))) == IPv4Address("198.18.1.7")
    for given in ("docker0", "198.18.204.1"):
        with pytest.raises(ConfigError, match=f"iface {given} cannot be the underlay: docker0 is a bridge of docker's"):
            pick(there, ifaces=(given,))
    with pytest.raises(ConfigError, match=r"no interface fits iface-regex docker: docker0 is a bridge of docker's"):
        pick(there, iface_regexes=("docker",))
    with pytest.raises(ConfigError, match=r"the route to it is by docker0, a bridge of docker's"):
        pick(there, reached=(IPv4Address("198.18.204.2"), RouteAnswer(ifindex=2, source=None)))
    behind = pick(there, public_ip=IPv4Address("198.18.204.1"), default=RouteAnswer(ifindex=3, source=None))
    assert behind.ifname == "eth1"


def test_where_no_interface_fits_the_route_to_an_address_decides_as_with_flannel() -> None:
    answer = (IPv4Address("198.18.1.99"), RouteAnswer(ifindex=3, source=None))
    assert pick(HOST, ifaces=("nosuch",), iface_regexes=("^wg",), reached=answer, default=DEFAULT).ifname == "eth1"
    assert pick(HOST, ifaces=("eth0",), reached=answer, default=DEFAULT).ifname == "eth0"

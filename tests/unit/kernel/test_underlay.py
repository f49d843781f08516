"""Interfaces and settings in, the underlay out: flannel's order of choice."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest

from overlayd.errors import ConfigError
from overlayd.kernel.interfaces import Interface, RouteAnswer
from overlayd.underlay import pick

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


def test_the_default_route_decides_if_nothing_else_does() -> None:
    found = pick(HOST, default=DEFAULT)
    assert (found.ifname, found.address, found.public_ip) == ("eth0", IPv4Address("10.0.2.15"), found.address)
    assert found.reason == "the default route"


def test_an_interface_is_given_by_name_or_by_address() -> None:
    by_name = pick(HOST, ifaces=("eth9", "eth1"), default=DEFAULT)
    assert (by_name.ifname, by_name.address, by_name.mtu_bytes) == ("eth1", IPv4Address("198.18.1.7"), 9000)
    by_address = pick(HOST, ifaces=("198.18.2.7",), default=DEFAULT)
    assert (by_address.ifname, by_address.address) == ("eth1", IPv4Address("198.18.2.7"))


def test_expressions_look_at_addresses_first_and_names_second() -> None:
    assert pick(HOST, iface_regexes=(r"^198\.18\.2\.",)).address == IPv4Address("198.18.2.7")
    assert pick(HOST, iface_regexes=("eth[1-9]",)).ifname == "eth1"
    # "1" is in an address of eth0, and in the name of eth1.
    assert pick(HOST[1:], iface_regexes=("1",)).ifname == "eth0"


def test_the_route_to_an_address_decides() -> None:
    target = IPv4Address("198.18.1.99")
    answer = RouteAnswer(ifindex=3, source=IPv4Address("198.18.1.7"))
    found = pick(HOST, reached=(target, answer), default=DEFAULT)
    assert (found.ifname, found.address) == ("eth1", IPv4Address("198.18.1.7"))
    with pytest.raises(ConfigError, match="no route"):
        pick(HOST, reached=(target, None), default=DEFAULT)


def test_the_public_address_names_the_interface_that_has_it() -> None:
    found = pick(HOST, public_ip=IPv4Address("198.18.2.7"), default=DEFAULT)
    assert (found.ifname, found.address) == ("eth1", IPv4Address("198.18.2.7"))


def test_a_public_address_behind_nat_is_published_as_it_is() -> None:
    found = pick(HOST, public_ip=IPv4Address("198.19.0.1"), default=DEFAULT)
    assert (found.address, found.public_ip) == (IPv4Address("10.0.2.15"), IPv4Address("198.19.0.1"))


def test_an_interface_that_is_not_there_gives_a_list_of_those_that_are() -> None:
    with pytest.raises(ConfigError) as caught:
        pick(HOST, ifaces=("ens3",), iface_regexes=("^wg",))
    assert "ens3" in str(caught.value)
    assert "eth1 (169.254.9.9, 198.18.1.7, 198.18.2.7)" in str(caught.value)
    assert "eth2 (no IPv4 address)" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ifaces": ("eth2",)}, "eth2.*no IPv4 address"),
        ({"iface_regexes": ("(",)}, "not an expression"),
        ({"default": None}, "no default route"),
    ],
)
def test_what_cannot_be_chosen_is_a_config_error(settings: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pick(HOST, **settings)  # type: ignore[arg-type]


def test_hosts_on_the_interfaces_networks_are_reached_directly() -> None:
    found = pick(HOST, ifaces=("eth1",))
    assert found.reaches_directly(IPv4Address("198.18.2.200"))
    assert not found.reaches_directly(IPv4Address("198.18.3.1"))

"""The keys of a network in etcd are spelled once."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network

import pytest

from overlayd.leases.keys import HOSTS, SUBNETS, Keys, MalformedLease, lease_name, parse_lease_name
from overlayd.leases.lease import read_lease
from overlayd.leases.subnets import Subnets
from overlayd.store.protocol import KeyValue
from overlayd.store.servers import RIGHTS

V4, V6 = IPv4Network("10.42.1.0/24"), IPv6Network("fd42:0:0:1::/64")


def test_keys_are_those_of_flannel_and_one_for_each_host() -> None:
    keys = Keys("/coreos.com/network")
    assert keys.config == "/coreos.com/network/config"
    assert keys.lease(lease_name(Subnets(v4=V4))) == "/coreos.com/network/subnets/10.42.1.0-24"
    assert keys.lease_name("/coreos.com/network/subnets/10.42.1.0-24") == "10.42.1.0-24"
    assert keys.host(IPv6Address("2001:db8::1")) == "/coreos.com/network/hosts/2001:db8::1"
    assert Keys("").subnets == "/subnets/"


def test_the_hint_for_an_etcd_that_refuses_names_these_keys() -> None:
    # The store is below the leases and does not know their keys.
    for name in (SUBNETS, HOSTS):
        assert f"PREFIX/{name}" in RIGHTS
    assert Keys("PREFIX").config in RIGHTS


@pytest.mark.parametrize("subnets", [Subnets(v4=V4), Subnets(v6=V6), Subnets(v4=V4, v6=V6)], ids=str)
def test_a_name_is_read_as_it_was_written(subnets: Subnets) -> None:
    assert parse_lease_name(lease_name(subnets)) == subnets


def test_a_key_that_is_no_lease_is_none() -> None:
    keys = Keys("/n")
    value = b'{"PublicIP":"198.18.0.1","BackendType":"host-gw"}'

    def read(name: str, value: bytes) -> object:
        return read_lease(keys, KeyValue(key=keys.lease(name), value=value, mod_revision=1, lease_id=0))

    assert read("10.42.1.0-24", value) is not None
    assert read("10.42.1.0-24", b"{") is None
    # No daemon takes this for a lease: what follows the prefix is the name, slashes included.
    assert read("other/10.42.1.0-24", value) is None
    with pytest.raises(MalformedLease, match=r"a zone \(RFC 4007\)"):
        parse_lease_name("10.42.1.0-24&fe80::%eth0-64")


def test_subnets_are_sorted_by_family() -> None:
    assert Subnets.of([V6, None, V4, IPv4Network("10.42.2.0/24")]) == Subnets(v4=V4, v6=V6)
    assert not Subnets.of([])
    env = {"FLANNEL_SUBNET": "10.42.1.1/24", "FLANNEL_IPV6_SUBNET": "fd42:0:0:1::1/64"}
    assert Subnets.of_subnet_env(env) == Subnets(v4=V4, v6=V6)
    assert Subnets.of_subnet_env({}) == Subnets()

"""The index of subnets finds what a walk through all of them would find."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from overlayd.lib.subnet_index import SubnetIndex

SUBNETS = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False), st.integers(0, 255), st.integers(20, 32)
)


@given(subnets=st.lists(SUBNETS), number=st.integers(0, 300))
def test_an_address_is_found_in_each_subnet_that_contains_it(subnets: list[IPv4Network], number: int) -> None:
    address = IPv4Address(number)
    found = SubnetIndex((subnet, at) for at, subnet in enumerate(subnets)).containing(address)
    assert sorted(found) == [at for at, subnet in enumerate(subnets) if address in subnet]


def test_the_two_ip_versions_are_apart() -> None:
    index = SubnetIndex([(ip_network("10.5.2.0/24"), "four"), (ip_network("fd05:0:0:2::/64"), "six")])
    assert index.containing(ip_address("10.5.2.7")) == ["four"]
    assert index.containing(ip_address("fd05:0:0:2::7")) == ["six"]
    # As a number it is in 10.5.2.0/24.
    assert index.containing(ip_address(int(ip_address("10.5.2.7")) + (1 << 64))) == []

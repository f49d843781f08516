"""Which subnet a host asks for."""

from __future__ import annotations

import random
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.errors import SubnetsExhausted
from overlayd.leases.allocate import choose_subnets, own_lease
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import parse_network_config
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPNetwork

CONFIG = parse_network_config('{"Network": "10.5.0.0/22", "SubnetLen": 26}')


EVERYTHING = list(IPv4Network("10.5.0.0/22").subnets(new_prefix=26))[1:]


def lease(subnet: str, public_ip: str) -> Lease:
    return Lease(v4=FamilyLease(subnet=IPv4Network(subnet), public_ip=IPv4Address(public_ip)))


def choose_subnet(
    taken: Collection[IPNetwork], preferred: IPv4Network | None = None, rng: random.Random | None = None
) -> IPv4Network:
    chosen = choose_subnets(CONFIG, taken, preferred=Subnets(v4=preferred), rng=rng or random.Random(1))
    assert chosen.v6 is None
    assert chosen.v4 is not None
    return chosen.v4


def test_own_lease_is_found_by_public_ip() -> None:
    leases = [lease("10.5.1.0/26", "198.18.0.1"), lease("10.5.1.64/26", "198.18.0.2")]
    assert own_lease(leases, IPv4Address("198.18.0.2"), CONFIG) == leases[1]
    assert own_lease(leases, IPv4Address("198.18.0.3"), CONFIG) is None


def test_own_lease_of_another_config_does_not_count() -> None:
    assert own_lease([lease("10.9.1.0/26", "198.18.0.1")], IPv4Address("198.18.0.1"), CONFIG) is None
    assert own_lease([lease("10.5.1.0/24", "198.18.0.1")], IPv4Address("198.18.0.1"), CONFIG) is None


def test_the_previous_subnet_is_taken_again_if_it_is_free() -> None:
    previous = IPv4Network("10.5.2.64/26")
    assert choose_subnet([], previous) == previous
    assert choose_subnet([previous], previous) != previous
    # Also when another length of it is taken.
    assert choose_subnet([IPv4Network("10.5.2.0/24")], previous) != previous


def test_the_last_free_subnet_is_found_and_then_there_is_none() -> None:
    everything = list(EVERYTHING)
    last = everything.pop(7)
    assert choose_subnet(everything, None) == last
    with pytest.raises(SubnetsExhausted, match="all 15 subnets"):
        choose_subnet([*everything, last], None)


@pytest.mark.parametrize("nonsense", ["0.0.0.0/0", "10.5.0.0/22", "10.0.0.0/8", "10.9.0.0/26"])
def test_a_key_as_wide_as_the_network_or_outside_it_takes_nothing(nonsense: str) -> None:
    previous = IPv4Network("10.5.2.64/26")
    assert choose_subnet([IPv4Network(nonsense)], previous) == previous


@given(st.sets(st.sampled_from(EVERYTHING), max_size=14), st.randoms(use_true_random=False))
def test_what_is_chosen_is_free_and_allowed(taken: set[IPv4Network], rng: random.Random) -> None:
    chosen = choose_subnet(taken, None, rng)
    assert chosen not in taken
    assert CONFIG.fits(Subnets(v4=chosen))


@given(st.sets(st.integers(1, 4095), max_size=40), st.randoms(use_true_random=False))
def test_both_families_are_chosen_from_what_is_free_in_each(taken: set[int], rng: random.Random) -> None:
    config = parse_network_config(
        '{"Network": "10.0.0.0/8", "EnableIPv6": true, "IPv6Network": "fd42::/52", "IPv6SubnetMax": "fd42:0:0:fff::"}'
    )
    busy = [IPv6Network(((0xFD42 << 112) + (number << 64), 64)) for number in taken]
    chosen = choose_subnets(config, busy, preferred=Subnets(v6=min(busy, default=None)), rng=rng)
    assert config.fits(chosen)
    assert chosen.v6 not in busy


def test_the_last_of_very_many_subnets_is_found() -> None:
    config = parse_network_config('{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd42::/16"}')
    everything = IPv6Network("fd42::/16")
    last = IPv6Network("fd42:9:8:7::/64")
    assert config.v6 is not None
    assert config.v6.subnet_count() == 2**48 - 1
    chosen = choose_subnets(config, [*everything.address_exclude(last)], preferred=Subnets(), rng=random.Random(1))
    assert chosen == Subnets(v6=last)

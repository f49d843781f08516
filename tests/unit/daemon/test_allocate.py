"""Which subnet a host asks for."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.allocate import choose_subnet, own_lease
from overlayd.errors import SubnetsExhausted
from overlayd.lease import Lease
from overlayd.network import parse_network_config

CONFIG = parse_network_config('{"Network": "10.5.0.0/22", "SubnetLen": 26}')


def lease(subnet: str, public_ip: str) -> Lease:
    return Lease(subnet=IPv4Network(subnet), public_ip=IPv4Address(public_ip))


def test_own_lease_is_found_by_public_ip() -> None:
    leases = [lease("10.5.1.0/26", "198.18.0.1"), lease("10.5.1.64/26", "198.18.0.2")]
    assert own_lease(leases, IPv4Address("198.18.0.2"), CONFIG) == leases[1]
    assert own_lease(leases, IPv4Address("198.18.0.3"), CONFIG) is None


def test_own_lease_of_another_config_does_not_count() -> None:
    assert own_lease([lease("10.9.1.0/26", "198.18.0.1")], IPv4Address("198.18.0.1"), CONFIG) is None
    assert own_lease([lease("10.5.1.0/24", "198.18.0.1")], IPv4Address("198.18.0.1"), CONFIG) is None


def test_the_previous_subnet_is_taken_again_if_it_is_free() -> None:
    previous = IPv4Network("10.5.2.64/26")
    assert choose_subnet(CONFIG, [], preferred=previous, rng=random.Random(1)) == previous
    assert choose_subnet(CONFIG, [previous], preferred=previous, rng=random.Random(1)) != previous
    # Also when another length of it is taken.
    assert choose_subnet(CONFIG, [IPv4Network("10.5.2.0/24")], preferred=previous, rng=random.Random(1)) != previous


def test_the_last_free_subnet_is_found_and_then_there_is_none() -> None:
    everything = list(CONFIG.subnets())
    last = everything.pop(7)
    assert choose_subnet(CONFIG, everything, preferred=None, rng=random.Random(1)) == last
    with pytest.raises(SubnetsExhausted, match="all 15 subnets"):
        choose_subnet(CONFIG, [*everything, last], preferred=None, rng=random.Random(1))


@pytest.mark.parametrize("nonsense", ["0.0.0.0/0", "10.5.0.0/22", "10.0.0.0/8", "10.9.0.0/26"])
def test_a_key_as_wide_as_the_network_or_outside_it_takes_nothing(nonsense: str) -> None:
    previous = IPv4Network("10.5.2.64/26")
    assert choose_subnet(CONFIG, [IPv4Network(nonsense)], preferred=previous, rng=random.Random(1)) == previous


@given(st.sets(st.sampled_from(list(CONFIG.subnets())), max_size=14), st.randoms(use_true_random=False))
def test_what_is_chosen_is_free_and_allowed(taken: set[IPv4Network], rng: random.Random) -> None:
    chosen = choose_subnet(CONFIG, taken, preferred=None, rng=rng)
    assert chosen not in taken
    assert CONFIG.fits(chosen)

"""Which subnet a host asks for, in both families, against counting them one by one."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from overlayd.errors import SubnetsExhausted
from overlayd.leases.allocate import choose_subnets, own_lease
from overlayd.leases.keys import lease_name, parse_lease_name
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import RESERVED, NetworkConfig, Pool, parse_network_config
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import (
    IPAddress,
    IPNetwork,
    contains,
    first_host,
    ip_network,
    is_within,
    overlaps,
    subnet_at,
)


class Picking(random.Random):
    """Chance that gives the number it was told to."""

    number = 0
    among = 0

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:  # noqa: ARG002
        """The number, and a note of how many there were."""
        self.among = start
        return min(self.number, start - 1)


@dataclass(frozen=True)
class Drawn:
    """A network config of one family with few subnets."""

    config: NetworkConfig
    pool: Pool

    def every(self) -> list[IPNetwork]:
        """All that may be leased, counted one by one."""
        size = 1 << self.pool.host_bits
        bases = range(int(self.pool.subnet_min), int(self.pool.subnet_max) + 1, size)
        return [subnet_at(self.pool.network, self.pool.subnet_len, base) for base in bases]


@st.composite
def configs(draw: st.DrawFn) -> Drawn:
    """Networks of either family, with any bounds, of at most 64 subnets."""
    version = draw(st.sampled_from([4, 6]))
    bits, longest_network, longest = (32, 28, 30) if version == 4 else (128, 124, 126)
    length = draw(st.integers(8, longest_network))
    subnet_len = draw(st.integers(length + 2, min(length + 6, longest)))
    base = draw(st.integers(1, 2**length - 2)) << (bits - length)
    network = ip_network((base, length))
    # Loopback and the like are no overlay's.
    assume(not any(overlaps(network, special) for special, _what in RESERVED[version]))
    count, size = 1 << (subnet_len - length), 1 << (bits - subnet_len)
    low, high = sorted((draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))))
    prefix = "" if version == 4 else "IPv6"
    document: dict[str, Any] = {
        "EnableIPv4": version == 4,
        "EnableIPv6": version == 6,
        f"{prefix}Network": str(network),
        f"{prefix}SubnetLen": subnet_len,
        f"{prefix}SubnetMax": str(network[high * size]),
    }
    if draw(st.booleans()):
        document[f"{prefix}SubnetMin"] = str(network[low * size])
    elif high < 1:
        # The first subnet is left out by default.
        document[f"{prefix}SubnetMax"] = str(network[size])
    config = parse_network_config(json.dumps(document))
    return Drawn(config, config.pools[0])


def taken_from(drawn: Drawn) -> st.SearchStrategy[list[IPNetwork]]:
    """What keys in etcd name: mostly subnets of the pool, some wider, narrower, outside it or of the other family."""
    network, length, every = drawn.pool.network, drawn.pool.subnet_len, drawn.every()
    own = st.sampled_from(every)
    shorter = st.builds(
        lambda one, less: one.supernet(new_prefix=max(length - less, network.prefixlen + 1)), own, st.integers(0, 3)
    )
    longer = st.builds(lambda one, more: next(one.subnets(new_prefix=min(length + more, 32))), own, st.integers(0, 2))
    others = st.sampled_from(
        [network, network.supernet(), ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("192.0.2.0/24")]
    )
    narrow = longer if network.version == 4 else own
    return st.lists(own | own | own | shorter | narrow | others, max_size=40)


def free(drawn: Drawn, taken: list[IPNetwork]) -> list[IPNetwork]:
    """The subnets that nothing in the network overlaps; a key as wide as the network is nobody's lease."""
    network = drawn.pool.network
    counts = [one for one in taken if is_within(one, network) and one != network]
    return [subnet for subnet in drawn.every() if not any(overlaps(subnet, one) for one in counts)]


def choose(drawn: Drawn, taken: list[IPNetwork], rng: random.Random, preferred: Subnets | None = None) -> IPNetwork:
    """The one subnet that is chosen."""
    (chosen,) = choose_subnets(drawn.config, taken, preferred=preferred or Subnets(), rng=rng)
    return chosen


@given(configs(), st.data())
def test_every_free_subnet_can_be_chosen_and_no_other(drawn: Drawn, data: st.DataObject) -> None:
    taken = data.draw(taken_from(drawn))
    left, rng = free(drawn, taken), Picking()
    if not left:
        with pytest.raises(SubnetsExhausted, match=f"all {len(drawn.every())} subnets"):
            choose(drawn, taken, rng)
        return
    found = []
    for number in range(len(left)):
        rng.number = number
        found.append(choose(drawn, taken, rng))
        # Each as likely as any other.
        assert rng.among == len(left)
    assert sorted(found, key=str) == sorted(left, key=str)


@given(configs(), st.data())
def test_what_is_chosen_is_inside_aligned_and_fits(drawn: Drawn, data: st.DataObject) -> None:
    taken = data.draw(taken_from(drawn))
    if not free(drawn, taken):
        return
    chosen = choose(drawn, taken, random.Random(data.draw(st.integers())))
    assert is_within(chosen, drawn.pool.network)
    assert chosen.prefixlen == drawn.pool.subnet_len
    assert int(drawn.pool.subnet_min) <= int(chosen.network_address) <= int(drawn.pool.subnet_max)
    assert drawn.pool.fits(chosen)
    assert contains(chosen, first_host(chosen).ip)
    version = chosen.version
    held = Subnets(**{f"v{version}": chosen})  # type: ignore[arg-type]
    assert drawn.config.fits(held)
    assert parse_lease_name(lease_name(held)) == held


@given(configs(), st.data())
def test_the_preferred_subnet_is_taken_exactly_if_it_is_free_and_fits(drawn: Drawn, data: st.DataObject) -> None:
    taken = data.draw(taken_from(drawn))
    left = free(drawn, taken)
    one = data.draw(st.sampled_from([*drawn.every(), drawn.pool.network, drawn.every()[0].supernet()]))
    preferred = Subnets(v4=one) if isinstance(one, IPv4Network) else Subnets(v6=one)
    if not left:
        with pytest.raises(SubnetsExhausted):
            choose(drawn, taken, random.Random(1), preferred)
    elif one in left:
        assert choose(drawn, taken, random.Random(1), preferred) == one
    else:
        assert choose(drawn, taken, random.Random(1), preferred) in left


@given(configs(), st.data())
def test_hosts_that_choose_one_after_the_other_fill_the_pool_to_the_last_subnet(
    drawn: Drawn, data: st.DataObject
) -> None:
    rng, taken = random.Random(data.draw(st.integers())), list[IPNetwork]()
    for _ in drawn.every():
        taken.append(choose(drawn, taken, rng))
    assert sorted(taken, key=str) == sorted(drawn.every(), key=str)
    with pytest.raises(SubnetsExhausted):
        choose(drawn, taken, rng)


CONFIG = parse_network_config('{"Network": "10.5.0.0/20", "EnableIPv6": true, "IPv6Network": "fd42::/60"}')
ADDRESSES = (IPv4Address("198.18.1.1"), IPv4Address("198.18.1.2"))


@st.composite
def leases(draw: st.DrawFn) -> Lease:
    """Leases of two hosts, some of which the config does not allow."""
    number = draw(st.integers(0, 5))
    address = draw(st.sampled_from(ADDRESSES))
    length = draw(st.sampled_from([24, 24, 25]))
    v4 = FamilyLease(
        subnet=IPv4Network((int(IPv4Network("10.5.0.0/20")[0]) + (number << 8), length)), public_ip=address
    )
    v6 = FamilyLease(subnet=IPv6Network((0xFD42 << 112 | number << 64, 64)), public_ip=parse_v6(number))
    return Lease(v4=v4, v6=draw(st.sampled_from([v6, v6, None])), backend_type=draw(st.sampled_from(["vxlan", "udp"])))


def parse_v6(number: int) -> IPAddress:
    return IPv6Network("2001:db8::/64")[number + 1]


@given(st.lists(leases(), max_size=6), st.data())
def test_a_hosts_own_lease_is_the_first_that_fits_under_its_address(found: list[Lease], data: st.DataObject) -> None:
    address = found[0].public_ip if found else parse_v6(0)
    mine = own_lease(found, address, CONFIG)
    candidates = [lease for lease in found if lease.public_ip == address and CONFIG.fits(lease.subnets)]
    assert (mine is None) == (not candidates)
    if mine is not None:
        assert mine in candidates
        assert mine.key_name == min(lease.key_name for lease in candidates)
        again = own_lease(data.draw(st.permutations(found)), address, CONFIG)
        assert again is not None
        assert again.key_name == mine.key_name

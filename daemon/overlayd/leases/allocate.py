"""Which subnets a host should take. Pure: the caller writes the lease, and chooses again if another host was faster."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

from overlayd.errors import SubnetsExhausted
from overlayd.leases.lease import Lease
from overlayd.leases.network_config import NetworkConfig, Pool
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, IPNetwork, is_within, overlaps, subnet_at


def own_lease(
    leases: Iterable[Lease], public_ip: IPAddress, config: NetworkConfig, avoid: Collection[IPNetwork] = ()
) -> Lease | None:
    """The lease that this host holds already: with its address, allowed by the config, and without any of `avoid`."""
    held = [
        lease
        for lease in leases
        if lease.public_ip == public_ip and config.fits(lease.subnets) and is_clear(lease.subnets, avoid)
    ]
    return min(held, key=lambda lease: lease.key_name, default=None)


def is_clear(subnets: Subnets, avoid: Collection[IPNetwork]) -> bool:
    """Whether no subnet overlaps with a network of `avoid`."""
    return not any(overlaps(subnet, one) for subnet in subnets for one in avoid)


def choose_subnets(
    config: NetworkConfig, taken: Collection[IPNetwork], *, preferred: Subnets, rng: random.Random
) -> Subnets:
    """In each family the preferred subnet if it is free and allowed, else a random free one. Raises SubnetsExhausted.

    Random, not the lowest, so that hosts that start together seldom choose the same.
    """
    return Subnets.of(
        _choose(pool, taken, of_family, rng)
        for pool, of_family in ((config.v4, preferred.v4), (config.v6, preferred.v6))
        if pool is not None
    )


def _choose(pool: Pool, taken: Collection[IPNetwork], preferred: IPNetwork | None, rng: random.Random) -> IPNetwork:
    # A key that names the whole network, or a subnet outside it, must not keep all hosts from a lease.
    busy = [one for one in taken if one.prefixlen > pool.network.prefixlen and is_within(one, pool.network)]
    if preferred is not None and pool.fits(preferred) and not any(overlaps(preferred, one) for one in busy):
        return preferred
    gaps = _gaps(pool, busy)
    left = sum(last - first + 1 for first, last in gaps)
    if not left:
        raise SubnetsExhausted(
            f"all {pool.subnet_count()} subnets of {pool.network} are taken ({pool.subnet_min} to {pool.subnet_max})",
            hint="widen the network or its range, lengthen the subnets, or release a lease: overlayd lease list",
        )
    number = rng.randrange(left)
    for first, last in gaps:
        if number <= last - first:
            return _subnet(pool, first + number)
        number -= last - first + 1
    raise AssertionError("unreachable")


def _gaps(pool: Pool, busy: Collection[IPNetwork]) -> list[tuple[int, int]]:
    """The free subnets, as ranges of their numbers in the pool, both ends included. A pool may have 2⁶⁰ of them."""
    shift = pool.host_bits
    low = int(pool.subnet_min) >> shift
    gaps, free = [], 0
    for one in sorted(busy, key=lambda one: int(one.network_address)):
        first = (int(one.network_address) >> shift) - low
        last = (int(one.broadcast_address) >> shift) - low
        if first > free:
            gaps.append((free, min(first, pool.subnet_count()) - 1))
        free = max(free, last + 1)
    if free < pool.subnet_count():
        gaps.append((free, pool.subnet_count() - 1))
    return [gap for gap in gaps if gap[0] <= gap[1]]


def _subnet(pool: Pool, number: int) -> IPNetwork:
    return subnet_at(pool.network, pool.subnet_len, int(pool.subnet_min) + (number << pool.host_bits))

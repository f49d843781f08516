"""Which subnet a host should ask for. Pure: the caller asks etcd, and asks again when somebody was quicker."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network

from overlayd.errors import SubnetsExhausted
from overlayd.lease import Lease
from overlayd.network import NetworkConfig

_TRIES_BEFORE_LISTING = 32


def own_lease(leases: Iterable[Lease], public_ip: IPv4Address, config: NetworkConfig) -> Lease | None:
    """The lease that this host holds already: published under its address, and allowed by the config."""
    held = [lease for lease in leases if lease.public_ip == public_ip and config.fits(lease.subnet)]
    return min(held, key=lambda lease: lease.subnet, default=None)


def choose_subnet(
    config: NetworkConfig,
    taken: Collection[IPv4Network],
    *,
    preferred: IPv4Network | None,
    rng: random.Random,
) -> IPv4Network:
    """The preferred subnet if it is free and allowed, else a random free one. Raises SubnetsExhausted.

    A subnet is taken when it overlaps any in `taken`, also one of another length from an earlier config. Random, not
    the next in order, so that hosts that start together seldom want the same.
    """
    busy = [
        (int(subnet.network_address), int(subnet.broadcast_address))
        for subnet in taken
        # A key as wide as the network or outside it is nobody's lease: it must not stop every host.
        if subnet.prefixlen > config.network.prefixlen and subnet.subnet_of(config.network)
    ]

    def free(subnet: IPv4Network) -> bool:
        first, last = int(subnet.network_address), int(subnet.broadcast_address)
        return all(last < low or first > high for low, high in busy)

    if preferred is not None and config.fits(preferred) and free(preferred):
        return preferred
    step = 2 ** (32 - config.subnet_len)
    for _ in range(_TRIES_BEFORE_LISTING):
        base = int(config.subnet_min) + rng.randrange(config.subnet_count()) * step
        guess = IPv4Network((base, config.subnet_len))
        if free(guess):
            return guess
    left = [subnet for subnet in config.subnets() if free(subnet)]
    if not left:
        raise SubnetsExhausted(
            f"all {config.subnet_count()} subnets of {config.network} from {config.subnet_min} to "
            f"{config.subnet_max} are taken",
            hint="widen Network or SubnetMin/SubnetMax, lengthen SubnetLen, or release a lease",
        )
    return rng.choice(left)

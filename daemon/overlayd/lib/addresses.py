"""Addresses of either family, and what differs between the two. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface

__all__ = [
    "IPAddress",
    "IPInterface",
    "IPNetwork",
    "contains",
    "first_host",
    "inside",
    "interface",
    "ip_address",
    "ip_interface",
    "ip_network",
    "is_within",
    "overlaps",
    "subnet_at",
    "without",
]


def is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether a network is part of another; false for two families."""
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def overlaps(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two networks share an address; false for two families."""
    return is_within(one, other) or is_within(other, one)


def contains(network: IPNetwork, address: IPAddress) -> bool:
    """Whether an address is in a network; false for two families."""
    return address.version == network.version and address in network


def inside(network: IPNetwork, where: IPAddress | IPNetwork) -> bool | None:
    """Whether an address, or all of a network, is in `network`; None where only a part of it is."""
    if not isinstance(where, IPv4Network | IPv6Network):
        return contains(network, where)
    return is_within(where, network) or (None if overlaps(where, network) else False)


def without(network: IPNetwork, inner: IPNetwork) -> Iterator[IPNetwork]:
    """The rest of a network, as networks. Raises ValueError where the other one is not in it."""
    if isinstance(network, IPv4Network) and isinstance(inner, IPv4Network):
        return network.address_exclude(inner)
    if isinstance(network, IPv6Network) and isinstance(inner, IPv6Network):
        return network.address_exclude(inner)
    raise ValueError(f"{inner} is not in {network}")


def subnet_at(network: IPNetwork, length: int, base: int) -> IPNetwork:
    """The subnet of the same family as `network` that begins at `base`."""
    return IPv4Network((base, length)) if isinstance(network, IPv4Network) else IPv6Network((base, length))


def interface(address: IPAddress, length: int) -> IPInterface:
    """An address with the length of its network."""
    return ip_interface((address, length))


def first_host(subnet: IPNetwork) -> IPInterface:
    """The subnet's first address after its base, with the subnet's length: docker's bridge has it."""
    return interface(subnet.network_address + 1, subnet.prefixlen)

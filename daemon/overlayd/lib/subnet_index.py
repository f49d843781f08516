"""Values by subnet, found by any address in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from overlayd.lib.addresses import IPAddress, IPNetwork

T = TypeVar("T")


class SubnetIndex(Generic[T]):
    """An index that never changes. A look-up costs one step for each prefix length, however many subnets there are."""

    def __init__(self, items: Iterable[tuple[IPNetwork, T]]) -> None:
        """Subnets may overlap, and one subnet may have several values."""
        # By (IP version, host bits, network bits).
        self._values: dict[tuple[int, int, int], list[T]] = {}
        for subnet, value in items:
            host_bits = subnet.max_prefixlen - subnet.prefixlen
            key = (subnet.version, host_bits, int(subnet.network_address) >> host_bits)
            self._values.setdefault(key, []).append(value)
        self._host_bits = {
            version: sorted({bits for of, bits, _network in self._values if of == version}) for version in (4, 6)
        }

    def containing(self, address: IPAddress) -> list[T]:
        """The values of all subnets that contain the address, those of the longest prefix first."""
        version, number = address.version, int(address)
        return [
            value
            for bits in self._host_bits[version]
            for value in self._values.get((version, bits, number >> bits), ())
        ]

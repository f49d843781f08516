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
        # By IP version, host bits, and network bits.
        self._values: dict[int, dict[int, dict[int, tuple[T, ...]]]] = {4: {}, 6: {}}
        for subnet, value in items:
            host_bits = subnet.max_prefixlen - subnet.prefixlen
            found = self._values[subnet.version].setdefault(host_bits, {})
            number = int(subnet.network_address) >> host_bits
            found[number] = (*found.get(number, ()), value)
        self._values = {version: dict(sorted(of.items())) for version, of in self._values.items()}

    def containing(self, address: IPAddress) -> list[T]:
        """The values of all subnets that contain the address, those of the longest prefix first."""
        number = int(address)
        return [
            value for bits, found in self._values[address.version].items() for value in found.get(number >> bits, ())
        ]

"""The subnets of one host, one of each address family in use. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from overlayd.lib.addresses import IPNetwork
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Subnets:
    """What one host holds: a subnet of each address family in use. Aligned (host bits zero)."""

    v4: IPv4Network | None = None
    v6: IPv6Network | None = None

    @classmethod
    def of(cls, networks: Iterable[IPNetwork | None]) -> Subnets:
        """The first IPv4 and the first IPv6 network of these; None stands for no network."""
        found = list(networks)
        return cls(
            v4=next((one for one in found if isinstance(one, IPv4Network)), None),
            v6=next((one for one in found if isinstance(one, IPv6Network)), None),
        )

    @classmethod
    def of_subnet_env(cls, variables: Mapping[str, str]) -> Subnets:
        """The subnets in the variables of a subnet.env, ours or flannel's. Raises ValueError.

        The file has the bridge's address, the first one of the subnet: 10.5.52.1/24.
        """
        v4, v6 = variables.get("FLANNEL_SUBNET"), variables.get("FLANNEL_IPV6_SUBNET")
        return cls(v4=IPv4Interface(v4).network if v4 else None, v6=IPv6Interface(v6).network if v6 else None)

    def __iter__(self) -> Iterator[IPNetwork]:
        return (subnet for subnet in (self.v4, self.v6) if subnet is not None)

    def __bool__(self) -> bool:
        return self.v4 is not None or self.v6 is not None

    def __str__(self) -> str:
        return ", ".join(map(str, self)) or "no subnet"

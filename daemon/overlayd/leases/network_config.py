"""The network config that all hosts share, with flannel's defaults and rules.

Pure: no I/O. It is the JSON under `<prefix>/config`; keys are read without regard to case, as flannel's Go does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from overlayd.errors import NetworkConfigError
from overlayd.leases.lease import DEFAULT_BACKEND
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import (
    IPAddress,
    IPNetwork,
    contains,
    ip_address,
    ip_network,
    is_within,
    overlaps,
    subnet_at,
)
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain, sanitized

KEYS = (
    *("Network", "SubnetLen", "SubnetMin", "SubnetMax", "EnableIPv4", "EnableIPv6", "EnableNFTables"),
    *("IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "Backend"),
)
_KNOWN = {name.lower(): name for name in KEYS}


@dataclass(frozen=True, kw_only=True)
class _FamilyRules:
    """How a network of one family is divided into subnets: the prefix of its keys, and lengths in bits."""

    version: int
    prefix: str
    smallest_network: int
    longest_subnet: int
    usual_subnet: int
    example: str


# No network is wider: 10.0.0.0/8 is the widest private one (RFC 1918), and fd00::/8 (RFC 4193).
WIDEST_NETWORK = 8


# By IP version: what no overlay network may hold any of, on any host, and why.
RESERVED: Mapping[int, tuple[tuple[IPNetwork, str], ...]] = {
    4: (
        (ip_network("0.0.0.0/8"), "this network (RFC 1122)"),
        (ip_network("127.0.0.0/8"), "loopback"),
        (ip_network("169.254.0.0/16"), "link-local"),
        (ip_network("224.0.0.0/4"), "multicast"),
        (ip_network("240.0.0.0/4"), "reserved (RFC 1112)"),
    ),
    6: (
        (ip_network("::/8"), "loopback and IPv4-mapped addresses (RFC 4291)"),
        (ip_network("fe80::/10"), "link-local"),
        (ip_network("ff00::/8"), "multicast"),
    ),
}
_RULES = {
    4: _FamilyRules(
        version=4,
        prefix="",
        smallest_network=28,
        longest_subnet=30,
        usual_subnet=24,
        example="10.42.0.0/16",
    ),
    6: _FamilyRules(
        version=6,
        prefix="IPv6",
        smallest_network=124,
        longest_subnet=126,
        usual_subnet=64,
        example="fd42::/48",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What one address family's subnets are leased from.

    `subnet_min` and `subnet_max` are the first addresses of the first and last subnet that may be leased.
    """

    network: IPNetwork
    subnet_len: int
    subnet_min: IPAddress
    subnet_max: IPAddress

    @property
    def host_bits(self) -> int:
        """The bits of an address that tell hosts of one subnet apart."""
        return self.network.max_prefixlen - self.subnet_len

    def subnet_count(self) -> int:
        """How many subnets may be leased."""
        return ((int(self.subnet_max) - int(self.subnet_min)) >> self.host_bits) + 1

    def fits(self, subnet: IPNetwork) -> bool:
        """Whether a subnet could have been leased from here."""
        return (
            subnet.version == self.network.version
            and subnet.prefixlen == self.subnet_len
            and int(self.subnet_min) <= int(subnet.network_address) <= int(self.subnet_max)
        )


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One overlay network: the pool of each address family in use, and how packets travel.

    `unknown` are keys that no host reads; configs that differ in these alone are equal.
    """

    v4: Pool | None = None
    v6: Pool | None = None
    nftables: bool = False
    backend_type: str = DEFAULT_BACKEND
    backend_config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    unknown: tuple[str, ...] = field(default=(), compare=False)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools there are, IPv4 first."""
        return tuple(pool for pool in (self.v4, self.v6) if pool is not None)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions in use."""
        return tuple(pool.network.version for pool in self.pools)

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """The networks of the pools."""
        return tuple(pool.network for pool in self.pools)

    def network(self, version: int) -> IPNetwork | None:
        """The network of IP version 4 or 6, if it is in use."""
        pool = self.v4 if version == 4 else self.v6
        return pool.network if pool else None

    def fits(self, subnets: Subnets) -> bool:
        """Whether these could have been leased under this config: one subnet of each family in use, and no other."""
        return all(
            (pool is None and subnet is None) or (pool is not None and subnet is not None and pool.fits(subnet))
            for pool, subnet in ((self.v4, subnets.v4), (self.v6, subnets.v6))
        )

    def __str__(self) -> str:
        return ", ".join(map(str, self.networks))


def parse_network_config(raw: bytes | str) -> NetworkConfig:
    """Read, fill in defaults and check. Raises NetworkConfigError that names the key, the value and what is allowed."""
    try:
        document = json.loads(raw if isinstance(raw, str) else raw.decode())
    except (ValueError, RecursionError) as error:
        raise NetworkConfigError(f"network config is not JSON: {plain(str(error))}", hint=_EXAMPLE) from error
    if not isinstance(document, dict):
        raise NetworkConfigError("network config is not a JSON object", hint=_EXAMPLE)
    fields = {_KNOWN[key.lower()]: value for key, value in document.items() if key.lower() in _KNOWN}
    v4 = _pool(fields, _RULES[4]) if _flag(fields, "EnableIPv4", default=True) else None
    v6 = _pool(fields, _RULES[6]) if _flag(fields, "EnableIPv6", default=False) else None
    if v4 is None and v6 is None:
        raise NetworkConfigError("EnableIPv4 and EnableIPv6 are both false", hint="set one of them to true")
    backend_type, backend_config = _backend(fields)
    return NetworkConfig(
        v4=v4,
        v6=v6,
        nftables=_flag(fields, "EnableNFTables", default=False),
        backend_type=backend_type,
        backend_config=backend_config,
        unknown=tuple(key for key in document if key.lower() not in _KNOWN),
    )


_EXAMPLE = 'for example {"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}'


def _flag(fields: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = fields.get(key, default)
    if not isinstance(value, bool):
        raise NetworkConfigError(f"{key} is {sanitized(value)}", hint="true or false")
    return value


def _pool(fields: Mapping[str, Any], rules: _FamilyRules) -> Pool:
    network = _network(fields, rules)
    subnet_len = _subnet_len(fields, network, rules)
    size = 1 << (network.max_prefixlen - subnet_len)
    # The first subnet is left out by default: its address is the network's own.
    low = _bound(fields, f"{rules.prefix}SubnetMin", network, subnet_len, network.network_address + size)
    high = _bound(fields, f"{rules.prefix}SubnetMax", network, subnet_len, network.broadcast_address - (size - 1))
    if int(low) > int(high):
        raise NetworkConfigError(f"{rules.prefix}SubnetMin {low} is above {rules.prefix}SubnetMax {high}")
    return Pool(network=network, subnet_len=subnet_len, subnet_min=low, subnet_max=high)


def _network(fields: Mapping[str, Any], rules: _FamilyRules) -> IPNetwork:
    key = f"{rules.prefix}Network"
    hint = f'for example {{"{key}": "{rules.example}", …}}' if rules.prefix else _EXAMPLE
    value = fields.get(key)
    if not isinstance(value, str):
        raise NetworkConfigError(f"{key} is {sanitized(value)}" if value else f"{key} is missing", hint=hint)
    try:
        if "%" in value:
            raise ValueError("a zone (RFC 4007) means something on one host only")
        # Host bits are cut off, as flannel does.
        network = ip_network(value, strict=False)
        if network.version != rules.version:
            raise ValueError("of the other family")
    except ValueError as error:
        raise NetworkConfigError(
            f"{key} is {sanitized(value)}, not an IPv{rules.version} network", hint=hint
        ) from error
    if "/" not in value or network.prefixlen > rules.smallest_network:
        raise NetworkConfigError(
            f"{key} {plain(value)} is too small to be cut into subnets", hint=f"at least a /{rules.smallest_network}"
        )
    for special, what in RESERVED[rules.version]:
        if overlaps(network, special):
            raise NetworkConfigError(
                f"{key} {network} {'is a part of' if is_within(network, special) else 'holds'} {special}, {what}",
                hint=hint,
            )
    if network.prefixlen < WIDEST_NETWORK:
        raise NetworkConfigError(f"{key} {network} is too wide", hint=f"at most a /{WIDEST_NETWORK}; {hint}")
    return network


def _subnet_len(fields: Mapping[str, Any], network: IPNetwork, rules: _FamilyRules) -> int:
    key, shortest = f"{rules.prefix}SubnetLen", network.prefixlen + 2
    value = fields.get(key) or max(rules.usual_subnet, shortest)
    if not isinstance(value, int) or isinstance(value, bool) or not shortest <= value <= rules.longest_subnet:
        raise NetworkConfigError(
            f"{key} is {sanitized(value)}",
            hint=f"a number from {shortest} to {rules.longest_subnet} for {rules.prefix}Network {network}",
        )
    return value


def _bound(fields: Mapping[str, Any], key: str, network: IPNetwork, subnet_len: int, default: IPAddress) -> IPAddress:
    value = fields.get(key)
    if value is None:
        return default
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        address = ip_address(value)
        if address.version != network.version:
            raise ValueError
    except ValueError:
        raise NetworkConfigError(f"{key} is {sanitized(value)}, not an IPv{network.version} address") from None
    if int(address) == 0:
        return default
    if not contains(network, address):
        raise NetworkConfigError(f"{key} {address} is outside {network}")
    host_bits = network.max_prefixlen - subnet_len
    if int(address) % (1 << host_bits):
        aligned = subnet_at(network, subnet_len, int(address) >> host_bits << host_bits).network_address
        raise NetworkConfigError(
            f"{key} {address} is not the first address of a /{subnet_len}", hint=f"for example {aligned}"
        )
    return address


def _backend(fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    value = fields.get("Backend")
    if value is None:
        return DEFAULT_BACKEND, MappingProxyType({})
    if not isinstance(value, dict):
        raise NetworkConfigError(f"Backend is {sanitized(value)}", hint='an object, for example {"Type": "vxlan"}')
    config = {key: found for key, found in value.items() if key.lower() != "type"}
    kinds = [found for key, found in value.items() if key.lower() == "type"]
    # Where the key is there twice, Go takes the last.
    kind = kinds[-1] if kinds else DEFAULT_BACKEND
    if not isinstance(kind, str) or not kind or plain(kind) != kind:
        raise NetworkConfigError(f"Backend Type is {sanitized(kind)}", hint="the name of a backend, for example vxlan")
    return kind.lower(), MappingProxyType(config)

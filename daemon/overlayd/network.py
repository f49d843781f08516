"""The network config that all hosts share, with flannel's defaults and rules.

Pure: no I/O. It is the JSON under `<prefix>/config`; keys are read without regard to case, as flannel's Go does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType
from typing import Any

from overlayd.errors import NetworkConfigError

DEFAULT_BACKEND = "udp"
SMALLEST_NETWORK = 28
LONGEST_SUBNET = 30
_WIDE = 22  # a Network at least this wide is cut into /24s
_KEYS = (
    *("Network", "SubnetLen", "SubnetMin", "SubnetMax", "EnableIPv4", "EnableIPv6", "EnableNFTables"),
    *("IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "Backend"),
)
_KNOWN = {name.lower(): name for name in _KEYS}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One overlay network: its addresses, how they are cut into subnets, and how packets travel.

    `subnet_min` and `subnet_max` are the first addresses of the first and last subnet that may be leased.
    """

    network: IPv4Network
    subnet_len: int
    subnet_min: IPv4Address
    subnet_max: IPv4Address
    backend_type: str = DEFAULT_BACKEND
    backend_config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def subnets(self) -> Iterator[IPv4Network]:
        """Every subnet that may be leased, in order."""
        step = 2 ** (32 - self.subnet_len)
        for base in range(int(self.subnet_min), int(self.subnet_max) + 1, step):
            yield IPv4Network((base, self.subnet_len))

    def subnet_count(self) -> int:
        """How many subnets may be leased."""
        return ((int(self.subnet_max) - int(self.subnet_min)) >> (32 - self.subnet_len)) + 1

    def fits(self, subnet: IPv4Network) -> bool:
        """Whether a subnet could have been leased under this config."""
        return subnet.prefixlen == self.subnet_len and self.subnet_min <= subnet.network_address <= self.subnet_max


def parse_network_config(raw: bytes | str) -> NetworkConfig:
    """Read, fill in defaults and check. Raises NetworkConfigError that names the key, the value and what is allowed."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise NetworkConfigError(f"network config is not JSON: {error}", hint=_EXAMPLE) from error
    if not isinstance(document, dict):
        raise NetworkConfigError("network config is not a JSON object", hint=_EXAMPLE)
    fields = _fields(document)
    if not _flag(fields, "EnableIPv4", default=True):
        raise NetworkConfigError("EnableIPv4 is false: this version carries IPv4 only", hint="set EnableIPv4 to true")
    if _flag(fields, "EnableIPv6", default=False):
        raise NetworkConfigError("EnableIPv6 is true: this version carries IPv4 only", hint="leave EnableIPv6 out")
    _flag(fields, "EnableNFTables", default=False)
    network = _network(fields)
    subnet_len = _subnet_len(fields, network)
    size = 2 ** (32 - subnet_len)
    # The first subnet is left out by default: its address is the network's own.
    low = _bound(fields, "SubnetMin", network, subnet_len, network.network_address + size)
    high = _bound(fields, "SubnetMax", network, subnet_len, network.broadcast_address - (size - 1))
    if low > high:
        raise NetworkConfigError(f"SubnetMin {low} is above SubnetMax {high}")
    backend_type, backend_config = _backend(fields)
    return NetworkConfig(
        network=network,
        subnet_len=subnet_len,
        subnet_min=low,
        subnet_max=high,
        backend_type=backend_type,
        backend_config=backend_config,
    )


_EXAMPLE = 'for example {"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}'


def _fields(document: Mapping[Any, Any]) -> dict[str, Any]:
    fields = {}
    for key, value in document.items():
        name = _KNOWN.get(str(key).lower())
        if name is None:
            raise NetworkConfigError(f"{key!r} is not a key of the network config", hint=f"known: {_list(_KNOWN)}")
        fields[name] = value
    return fields


def _list(known: Mapping[str, str]) -> str:
    return ", ".join(known.values())


def _flag(fields: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = fields.get(key, default)
    if not isinstance(value, bool):
        raise NetworkConfigError(f"{key} is {value!r}", hint="true or false")
    return value


def _network(fields: Mapping[str, Any]) -> IPv4Network:
    value = fields.get("Network")
    if not isinstance(value, str):
        raise NetworkConfigError(f"Network is {value!r}" if value else "Network is missing", hint=_EXAMPLE)
    try:
        # Host bits are cut off, as flannel does.
        network = IPv4Network(value, strict=False)
    except ValueError as error:
        raise NetworkConfigError(f"Network is {value!r}, not an IPv4 network", hint=_EXAMPLE) from error
    if "/" not in value or network.prefixlen > SMALLEST_NETWORK:
        raise NetworkConfigError(
            f"Network {value} is too small to be cut into subnets", hint=f"at least a /{SMALLEST_NETWORK}"
        )
    return network


def _subnet_len(fields: Mapping[str, Any], network: IPv4Network) -> int:
    shortest = network.prefixlen + 2
    value = fields.get("SubnetLen") or (24 if network.prefixlen <= _WIDE else shortest)
    if not isinstance(value, int) or isinstance(value, bool) or not shortest <= value <= LONGEST_SUBNET:
        raise NetworkConfigError(
            f"SubnetLen is {value!r}",
            hint=f"a number from {shortest} to {LONGEST_SUBNET} for Network {network}",
        )
    return value


def _bound(
    fields: Mapping[str, Any], key: str, network: IPv4Network, subnet_len: int, default: IPv4Address
) -> IPv4Address:
    value = fields.get(key)
    if value is None:
        return default
    try:
        if not isinstance(value, str):
            raise ValueError
        address = IPv4Address(value)
    except ValueError:
        raise NetworkConfigError(f"{key} is {value!r}, not an IPv4 address") from None
    if address not in network:
        raise NetworkConfigError(f"{key} {address} is outside Network {network}")
    if int(address) % 2 ** (32 - subnet_len):
        aligned = IPv4Network((int(address), subnet_len), strict=False).network_address
        raise NetworkConfigError(
            f"{key} {address} is not the first address of a /{subnet_len}", hint=f"for example {aligned}"
        )
    return address


def _backend(fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    value = fields.get("Backend")
    if value is None:
        return DEFAULT_BACKEND, MappingProxyType({})
    if not isinstance(value, dict):
        raise NetworkConfigError(f"Backend is {value!r}", hint='an object, for example {"Type": "vxlan"}')
    config = {key: found for key, found in value.items() if key.lower() != "type"}
    kinds = [found for key, found in value.items() if key.lower() == "type"]
    kind = kinds[0] if kinds else DEFAULT_BACKEND
    if not isinstance(kind, str) or not kind:
        raise NetworkConfigError(f"Backend Type is {kind!r}", hint="the name of a backend, for example vxlan")
    return kind.lower(), MappingProxyType(config)

"""A lease: which host holds which subnet, and how to reach it. Flannel's keys and values, byte for byte.

Pure: no I/O. The key of a lease is `<prefix>/subnets/10.5.52.0-24`; dual stack adds `&fc00:-…-64`. The value is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

A = TypeVar("A", IPv4Address, IPv6Address)


class MalformedLease(ValueError):
    """A key or value that is not a lease. The text says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One host's hold on one subnet, as every peer sees it.

    `subnet` is aligned (host bits zero). `public_ip` is the host's underlay address. `backend_data` is what the backend
    of that host publishes (vxlan: `{"VNI": 1, "VtepMAC": "…"}`); None where it publishes nothing.
    """

    subnet: IPv4Network
    public_ip: IPv4Address
    backend_type: str = "udp"
    backend_data: Mapping[str, Any] | None = field(default=None, hash=False)
    subnet6: IPv6Network | None = None
    public_ip6: IPv6Address | None = None
    backend_v6_data: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def key_name(self) -> str:
        """The last part of the lease's key."""
        return format_key(self.subnet, self.subnet6)

    def value(self) -> bytes:
        """The JSON that goes under the key: the fields in flannel's order, absent ones left out."""
        document: dict[str, Any] = {"PublicIP": str(self.public_ip)}
        document["PublicIPv6"] = str(self.public_ip6) if self.public_ip6 else None
        document["BackendType"] = self.backend_type
        if self.backend_data is not None:
            document["BackendData"] = dict(self.backend_data)
        if self.backend_v6_data is not None:
            document["BackendV6Data"] = dict(self.backend_v6_data)
        return json.dumps(document, separators=(",", ":")).encode()


def format_key(subnet: IPv4Network, subnet6: IPv6Network | None = None) -> str:
    """`10.5.52.0-24`, or for dual stack `10.5.52.0-24&fc00:-…` with `-` for `:` in the IPv6 part."""
    name = f"{subnet.network_address}-{subnet.prefixlen}"
    if subnet6 is None:
        return name
    return f"{name}&{str(subnet6.network_address).replace(':', '-')}-{subnet6.prefixlen}"


def parse_key(name: str) -> tuple[IPv4Network, IPv6Network | None]:
    """The subnets that a key's last part names. Raises MalformedLease."""
    first, _, second = name.partition("&")
    try:
        address, _, length = first.partition("-")
        subnet = IPv4Network(f"{address}/{int(length)}")
        if not second:
            return subnet, None
        address6, _, length6 = second.rpartition("-")
        return subnet, IPv6Network(f"{address6.replace('-', ':')}/{int(length6)}")
    except ValueError as error:
        raise MalformedLease(f"key {name!r} is not ADDRESS-LENGTH of an aligned subnet: {error}") from error


def parse_lease(name: str, value: bytes) -> Lease:
    """The lease under a key's last part. Raises MalformedLease, never anything else, whatever the bytes are."""
    subnet, subnet6 = parse_key(name)
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise MalformedLease(f"value of {name!r} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MalformedLease(f"value of {name!r} is not a JSON object")
    # Go reads object keys without regard to case, so flannel accepts any.
    fields = {str(key).lower(): found for key, found in document.items()}
    backend_type = fields.get("backendtype") or "udp"
    if not isinstance(backend_type, str):
        raise MalformedLease(f"BackendType of {name!r} is not a string: {backend_type!r}")
    return Lease(
        subnet=subnet,
        public_ip=_address(IPv4Address, name, "PublicIP", fields.get("publicip")),
        backend_type=backend_type,
        backend_data=_object(name, "BackendData", fields.get("backenddata")),
        subnet6=subnet6,
        public_ip6=(
            _address(IPv6Address, name, "PublicIPv6", fields["publicipv6"]) if fields.get("publicipv6") else None
        ),
        backend_v6_data=_object(name, "BackendV6Data", fields.get("backendv6data")),
    )


def _address(kind: type[A], name: str, label: str, found: object) -> A:
    try:
        if isinstance(found, str):
            return kind(found)
    except ValueError:
        pass
    raise MalformedLease(f"{label} of {name!r} is not an address: {found!r}")


def _object(name: str, label: str, found: object) -> Mapping[str, Any] | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        raise MalformedLease(f"{label} of {name!r} is not a JSON object: {found!r}")
    return found

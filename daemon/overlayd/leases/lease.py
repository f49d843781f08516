"""A lease: which host holds which subnets, and how to reach it. Its value in etcd is flannel's JSON, byte for byte.

Pure: no I/O. The key is spelled in keys.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from overlayd.leases.keys import LEASE_BYTES, Keys, MalformedLease, lease_name, parse_lease_name
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain, sanitized
from overlayd.store.protocol import KeyValue

A = TypeVar("A", IPv4Address, IPv6Address)

# The backend of a lease or a network config that names none: flannel's udp writes none into its leases.
DEFAULT_BACKEND = "udp"
# Backends publish objects of a few plain fields; many small values take more memory than a text of the same length.
DATA_PARTS = 32


@dataclass(frozen=True, kw_only=True)
class FamilyLease:
    """One address family's part of a lease.

    `public_ip` is the host's underlay address. `data` is what the host's backend publishes for this family (vxlan:
    `{"VNI": 1, "VtepMAC": "…"}`); None where it publishes nothing. The extension backend publishes one text for both.
    """

    subnet: IPNetwork
    public_ip: IPAddress
    data: Mapping[str, Any] | str | None = field(default=None, hash=False)

    @cached_property
    def span(self) -> tuple[int, int]:
        """The subnet's first and last address, as numbers."""
        first = int(self.subnet.network_address)
        return first, first + (1 << (self.subnet.max_prefixlen - self.subnet.prefixlen)) - 1

    @cached_property
    def version(self) -> int:
        """4 or 6."""
        return self.subnet.version

    @cached_property
    def public_number(self) -> int:
        """The public address as a number."""
        return int(self.public_ip)

    def fields(self) -> dict[str, Any]:
        """The published data, by keys in lower case: Go reads them in any. A text has none."""
        data = self.data if isinstance(self.data, Mapping) else {}
        return {str(key).lower(): value for key, value in data.items()}


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One host's subnets, as every peer sees them. At least one family lease is there.

    `backend_type` is empty where none is to be published; a lease without one is read as udp's, as flannel does.
    `created` is etcd's revision when the key was first written: the lower, the older. Leases that differ in `created`
    alone are equal.
    """

    v4: FamilyLease | None = None
    v6: FamilyLease | None = None
    backend_type: str = DEFAULT_BACKEND
    created: int = field(default=0, compare=False)

    @cached_property
    def family_leases(self) -> tuple[FamilyLease, ...]:
        """The family leases that there are, IPv4 first."""
        return tuple(family_lease for family_lease in (self.v4, self.v6) if family_lease is not None)

    @property
    def subnets(self) -> Subnets:
        """The subnets of all family leases."""
        return Subnets.of(family_lease.subnet for family_lease in self.family_leases)

    @cached_property
    def public_ip(self) -> IPAddress:
        """The address that the host is known by: the IPv4 one where there is one."""
        return self.family_leases[0].public_ip

    @cached_property
    def key_name(self) -> str:
        """The lease's name, which is the last part of its key."""
        return lease_name(self.subnets)

    def family_lease(self, version: int) -> FamilyLease | None:
        """The part of IP version 4 or 6, if there is one."""
        return self.v4 if version == 4 else self.v6

    def value(self) -> bytes:
        """The JSON that goes under the key: the fields in flannel's order, absent ones left out."""
        document: dict[str, Any] = {
            "PublicIP": str(self.v4.public_ip) if self.v4 else _stand_in(self.public_ip),
            "PublicIPv6": str(self.v6.public_ip) if self.v6 else None,
        }
        if self.backend_type:
            document["BackendType"] = self.backend_type
        text = next(
            (family_lease.data for family_lease in self.family_leases if isinstance(family_lease.data, str)), None
        )
        if text is not None:
            # Also where there is no IPv4: flannel's extension backend looks nowhere else.
            document["BackendData"] = text
        if self.v4 and isinstance(self.v4.data, Mapping):
            document["BackendData"] = dict(self.v4.data)
        if self.v6 and isinstance(self.v6.data, Mapping):
            document["BackendV6Data"] = dict(self.v6.data)
        return json.dumps(document, separators=(",", ":")).encode()


def _stand_in(public_ip: IPAddress) -> str:
    """The IPv4 address that a lease without IPv4 publishes.

    A flannel without IPv4 publishes 0.0.0.0 and takes the first lease with that address for its own. So each host
    publishes an address that no host has (240.0.0.0/5, RFC 1112), another one for each. Nobody reads it.
    """
    digest = hashlib.sha256(f"overlayd {public_ip}".encode()).digest()
    return str(IPv4Address(0xF0000000 | int.from_bytes(digest[:4], "big") & 0x07FFFFFF))


def parse_lease(name: str, value: bytes, *, created: int = 0) -> Lease:
    """The lease under a key's last part. Raises MalformedLease, never anything else, whatever the bytes are.

    An IPv6 subnet whose public address is missing is left out of a lease of both families: nobody can send to it.
    """
    subnets = parse_lease_name(name)
    if len(value) > LEASE_BYTES:
        raise MalformedLease(f"value of {sanitized(name)} has {len(value)} bytes, at most {LEASE_BYTES} are read")
    try:
        # Bytes that are not UTF-8 are replaced, as Go does.
        document = json.loads(value.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise MalformedLease(f"value of {sanitized(name)} is not JSON: {plain(str(error))}") from error
    if not isinstance(document, dict):
        raise MalformedLease(f"value of {sanitized(name)} is not a JSON object")
    # Go reads object keys without regard to case, so flannel accepts any.
    fields = {str(key).lower(): found for key, found in document.items()}
    backend_type = fields.get("backendtype") or DEFAULT_BACKEND
    if not isinstance(backend_type, str):
        raise MalformedLease(f"BackendType of {sanitized(name)} is not a string: {sanitized(backend_type)}")
    if plain(backend_type) != backend_type:
        raise MalformedLease(f"BackendType of {sanitized(name)} is no name: {sanitized(backend_type)}")
    data = _data(name, "BackendData", fields.get("backenddata"))
    data6 = data if isinstance(data, str) else _data(name, "BackendV6Data", fields.get("backendv6data"))
    v4 = v6 = None
    if subnets.v4:
        v4 = FamilyLease(
            subnet=subnets.v4,
            public_ip=_address(IPv4Address, name, "PublicIP", fields.get("publicip")),
            data=data,
        )
    if subnets.v6 and (v4 is None or fields.get("publicipv6")):
        v6 = FamilyLease(
            subnet=subnets.v6,
            public_ip=_address(IPv6Address, name, "PublicIPv6", fields.get("publicipv6")),
            data=data6,
        )
    return Lease(v4=v4, v6=v6, backend_type=backend_type, created=created)


def read_lease(keys: Keys, kv: KeyValue) -> Lease | None:
    """The lease that one key of a network holds; None where it is not a lease."""
    with contextlib.suppress(MalformedLease):
        return parse_lease(keys.lease_name(kv.key), kv.value)
    return None


def _address(kind: type[A], name: str, label: str, found: object) -> A:
    try:
        if isinstance(found, str) and "%" not in found:
            return kind(found)
    except ValueError:
        pass
    raise MalformedLease(f"{label} of {sanitized(name)} is not an address: {sanitized(found)}")


def _data(name: str, label: str, found: object) -> Mapping[str, Any] | str | None:
    if isinstance(found, dict) and _parts(found) > DATA_PARTS:
        raise MalformedLease(f"{label} of {sanitized(name)} has more than {DATA_PARTS} parts")
    if isinstance(found, dict):
        # Thousands of hosts publish the same names.
        return {sys.intern(key): value for key, value in found.items()}
    if found is None or isinstance(found, str):
        return found
    raise MalformedLease(f"{label} of {sanitized(name)} is neither a JSON object nor a string: {sanitized(found)}")


def _parts(found: dict[str, Any]) -> int:
    """How many values a JSON object holds, in all its depth; no further than is needed to say that it is too many."""
    count, inside = 0, list[Any](found.values())
    while inside and count <= DATA_PARTS:
        count += 1
        one = inside.pop()
        inside.extend(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
    return count

"""A lease: which host holds which subnets, and how to reach it. Flannel's keys and values, byte for byte.

Pure: no I/O. The key of a lease is `<prefix>/subnets/10.5.52.0-24`; dual stack adds `&fc00::-64`. The value is JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.sanitize import plain, quoted

A = TypeVar("A", IPv4Address, IPv6Address)

# What a lease without a backend is taken for, as flannel's udp writes none.
UNSAID = "udp"
_NO_IPV4 = "0.0.0.0"
# The longest name of two subnets has 63 characters; a lease has some 200 bytes, but the extension backend publishes
# what a command printed. Of objects, backends publish a few plain fields; many small ones take more memory than text.
NAME_LENGTH = 128
VALUE_BYTES = 64 * 1024
DATA_PARTS = 32


class MalformedLease(ValueError):
    """A key or value that is not a lease. The text says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Subnets:
    """What one host holds: a subnet of each address family in use. Aligned (host bits zero)."""

    v4: IPv4Network | None = None
    v6: IPv6Network | None = None

    def __iter__(self) -> Iterator[IPNetwork]:
        return (subnet for subnet in (self.v4, self.v6) if subnet is not None)

    def __str__(self) -> str:
        return ", ".join(map(str, self)) or "no subnet"

    @property
    def key_name(self) -> str:
        """The last part of the key: `10.5.52.0-24`, `10.5.52.0-24&fc00::-64`, or `0.0.0.0-0&fc00::-64`."""
        name = f"{self.v4.network_address}-{self.v4.prefixlen}" if self.v4 else f"{_NO_IPV4}-0"
        return f"{name}&{self.v6.network_address}-{self.v6.prefixlen}" if self.v6 else name


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
    """One host's hold on its subnets, as every peer sees it. At least one leg is there.

    `backend_type` is empty where none is to be published; read, that is udp, as with flannel. `created` is etcd's
    revision when its key was first written: the lower, the older. Two leases that differ in that only are the same.
    """

    v4: FamilyLease | None = None
    v6: FamilyLease | None = None
    backend_type: str = UNSAID
    created: int = field(default=0, compare=False)

    @cached_property
    def family_leases(self) -> tuple[FamilyLease, ...]:
        """The legs there are, IPv4 first."""
        return tuple(family_lease for family_lease in (self.v4, self.v6) if family_lease is not None)

    @property
    def subnets(self) -> Subnets:
        """What is held."""
        v4, v6 = (family_lease.subnet if family_lease else None for family_lease in (self.v4, self.v6))
        return Subnets(
            v4=v4 if isinstance(v4, IPv4Network) else None,
            v6=v6 if isinstance(v6, IPv6Network) else None,
        )

    @property
    def public_ip(self) -> IPAddress:
        """The address that the host is known by: the IPv4 one where there is one."""
        return self.family_leases[0].public_ip

    @cached_property
    def key_name(self) -> str:
        """The last part of the lease's key."""
        return self.subnets.key_name

    def family_lease(self, version: int) -> FamilyLease | None:
        """The leg of IP version 4 or 6, if there is one."""
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
    """What is published for an IPv4 address where there is none.

    A flannel without IPv4 takes the first lease of 0.0.0.0 for its own, which is what it writes itself. An address that
    no host has (240.0.0.0/5, RFC 1112), another for each host, is nobody's; nothing else is read of it.
    """
    digest = hashlib.sha256(f"overlayd {public_ip}".encode()).digest()
    return str(IPv4Address(0xF0000000 | int.from_bytes(digest[:4], "big") & 0x07FFFFFF))


def parse_key(name: str) -> Subnets:
    """The subnets that a key's last part names. Raises MalformedLease.

    The IPv6 part is also read with `-` for `:`, as some tools write it.
    """
    if len(name) > NAME_LENGTH:
        raise MalformedLease(f"key {quoted(name)} has {len(name)} characters, at most {NAME_LENGTH} are read")
    first, _, second = name.partition("&")
    try:
        v6 = None
        if "%" in second:
            # RFC 4007: means something on one host only.
            raise ValueError("a zone")
        if second:
            address6, _, length6 = second.rpartition("-")
            v6 = IPv6Network(f"{address6.replace('-', ':')}/{_length(length6)}")
        address, _, length = first.partition("-")
        v4 = IPv4Network(f"{address}/{_length(length)}")
    except ValueError as error:
        raise MalformedLease(
            f"key {quoted(name)} is not ADDRESS-LENGTH of an aligned subnet: {plain(str(error))}"
        ) from error
    # How flannel writes a lease without IPv4.
    return Subnets(v4=None if v6 and v4.prefixlen == 0 else v4, v6=v6)


def parse_lease(name: str, value: bytes, *, created: int = 0) -> Lease:
    """The lease under a key's last part. Raises MalformedLease, never anything else, whatever the bytes are.

    A family whose public address is not published has no leg: nobody can send to it.
    """
    subnets = parse_key(name)
    if len(value) > VALUE_BYTES:
        raise MalformedLease(f"value of {quoted(name)} has {len(value)} bytes, at most {VALUE_BYTES} are read")
    try:
        # What is no UTF-8 is replaced, as Go does.
        document = json.loads(value.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise MalformedLease(f"value of {quoted(name)} is not JSON: {plain(str(error))}") from error
    if not isinstance(document, dict):
        raise MalformedLease(f"value of {quoted(name)} is not a JSON object")
    # Go reads object keys without regard to case, so flannel accepts any.
    fields = {str(key).lower(): found for key, found in document.items()}
    backend_type = fields.get("backendtype") or UNSAID
    if not isinstance(backend_type, str):
        raise MalformedLease(f"BackendType of {quoted(name)} is not a string: {quoted(backend_type)}")
    if plain(backend_type) != backend_type:
        raise MalformedLease(f"BackendType of {quoted(name)} is no name: {quoted(backend_type)}")
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


def _length(text: str) -> int:
    # int() would also take ` 24`, `+24` and `2_4`.
    if not text.isdecimal() or not text.isascii():
        raise ValueError(f"{quoted(text)} is no prefix length")
    return int(text)


def _address(kind: type[A], name: str, label: str, found: object) -> A:
    try:
        if isinstance(found, str) and "%" not in found:
            return kind(found)
    except ValueError:
        pass
    raise MalformedLease(f"{label} of {quoted(name)} is not an address: {quoted(found)}")


def _data(name: str, label: str, found: object) -> Mapping[str, Any] | str | None:
    if isinstance(found, dict) and _parts(found) > DATA_PARTS:
        raise MalformedLease(f"{label} of {quoted(name)} has more than {DATA_PARTS} parts")
    if found is None or isinstance(found, dict | str):
        return found
    raise MalformedLease(f"{label} of {quoted(name)} is neither a JSON object nor a string: {quoted(found)}")


def _parts(found: dict[str, Any]) -> int:
    """How many values a JSON object holds, in all its depth; no further than is needed to say that it is too many."""
    count, inside = 0, list[Any](found.values())
    while inside and count <= DATA_PARTS:
        count += 1
        one = inside.pop()
        inside.extend(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
    return count

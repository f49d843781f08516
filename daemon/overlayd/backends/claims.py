"""Which WireGuard peer may send from which subnets: each key is one host's, and each subnet one key's. Pure.

A device gives a subnet to one peer only, the last that asked; two leases that claim the same would take it from each
other for ever, and so would two hosts with one key.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from overlayd.kernel.wireguard.device import KEY_BYTES, format_key, parse_key
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a lease asks of one device: that a key, met at `address` and UDP `port`, holds these subnets."""

    device: str
    public_key: str
    address: IPAddress
    port: int
    subnets: tuple[IPNetwork, ...]


class Claims:
    """The claims of many leases. Not for two threads."""

    def __init__(self, own_key: str) -> None:
        """None yet. `own_key` is this host's public key, which no other may have."""
        self._own_key = own_key
        self._hosts: dict[str, frozenset[IPAddress]] = {}
        self._takers: dict[tuple[str, IPNetwork], str] = {}
        self._granted: dict[str, tuple[Claim, ...]] = {}

    def add(self, lease: Lease, claims: Collection[Claim]) -> str | None:
        """Grant all that a lease claims, or nothing and say why."""
        addresses = frozenset(family_lease.public_ip for family_lease in lease.family_leases)
        for claim in claims:
            if claim.public_key == self._own_key:
                return f"its PublicKey {claim.public_key} is this host's own"
            others = self._hosts.get(claim.public_key, addresses)
            if not others & addresses:
                return f"its PublicKey {claim.public_key} is also that of {_listed(others)}"
            for subnet in claim.subnets:
                taker = self._takers.get((claim.device, subnet), claim.public_key)
                if taker != claim.public_key:
                    return f"its subnet {subnet} is also that of {_listed(self._hosts[taker])}"
        for claim in claims:
            self._hosts[claim.public_key] = self._hosts.get(claim.public_key, frozenset()) | addresses
            self._takers |= {(claim.device, subnet): claim.public_key for subnet in claim.subnets}
        self._granted[lease.key_name] = tuple(claims)
        return None

    def granted(self) -> dict[str, tuple[Claim, ...]]:
        """What each lease was granted. The leases of one host are one WireGuard peer, with the subnets of all."""
        merged: dict[tuple[str, str], Claim] = {}
        for claim in (claim for claims in self._granted.values() for claim in claims):
            before = merged.setdefault((claim.device, claim.public_key), claim)
            subnets = dict.fromkeys((*before.subnets, *claim.subnets))
            merged[claim.device, claim.public_key] = replace(before, subnets=tuple(subnets))
        return {
            name: tuple(merged[claim.device, claim.public_key] for claim in claims)
            for name, claims in self._granted.items()
        }


def public_key_of(family_lease: FamilyLease) -> str | None:
    """The key that a peer published with a lease, as wg(8) writes it; None where it is no key."""
    key = parse_key(family_lease.fields().get("publickey"))
    return format_key(key) if key is not None and key != bytes(KEY_BYTES) else None


def _listed(addresses: Collection[IPAddress]) -> str:
    return ", ".join(sorted(map(str, addresses)))

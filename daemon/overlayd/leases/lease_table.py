"""All leases of a network as one value. After a change only the keys that changed are parsed again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import field

from overlayd.leases.keys import MalformedLease
from overlayd.leases.lease import Lease, parse_lease
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain
from overlayd.store.protocol import KeyValue

# So many keys that are not leases are listed in the status.
LISTED_AT_MOST = 50


@dataclass(frozen=True, kw_only=True)
class LeaseTable:
    """All leases of the network by their names, and of each other key what is wrong with it (`malformed`).

    `reserved` are the names of leases without an etcd lease: kept for a host, whether it runs or not. `left_out` counts
    keys that were not read, because there are too many, or their names are too long.
    """

    leases: Mapping[str, Lease]
    malformed: Mapping[str, str]
    reserved: frozenset[str] = frozenset()
    left_out: int = 0

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """The keys that are not leases and why, for the status: some by their names, the rest as a number."""
        listed = sorted(self.malformed.items())[:LISTED_AT_MOST]
        more = len(self.malformed) - len(listed)
        rest = [(f"{more} more", "are not leases either")] if more else []
        if self.left_out:
            rest.append((f"{self.left_out} more", "were not looked at: too many keys, or names too long"))
        return (*((plain(name), problem) for name, problem in listed), *rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """One key as it was read: a lease and the name that it should have, or what is wrong."""

    kv: KeyValue
    lease: Lease | None = None
    key_name: str = ""
    problem: str = ""


@dataclass
class LeaseTableReader:
    """Makes tables of leases. A key is parsed again only when it has changed. For one thread."""

    _read: dict[str, _Read] = field(default_factory=dict)

    def read(self, entries: Iterable[tuple[str, KeyValue]], *, left_out: int = 0) -> LeaseTable:
        """The table of these keys, each with the name of its lease."""
        before, now = self._read, dict[str, _Read]()
        for name, kv in entries:
            old = before.get(name)
            now[name] = old if old is not None and (old.kv is kv or old.kv == kv) else _read(name, kv)
        self._read = now
        leases = {name: one.lease for name, one in now.items() if one.lease is not None}
        malformed = {name: one.problem for name, one in now.items() if one.lease is None}
        for name, twin in _second_spellings(now).items():
            malformed[name] = f"it names the subnets of key {twin} once more"
            del leases[name]
        reserved = frozenset(name for name in leases if not now[name].kv.lease_id)
        return LeaseTable(leases=leases, malformed=malformed, reserved=reserved, left_out=left_out)


def _read(name: str, kv: KeyValue) -> _Read:
    if kv.dropped_bytes:
        return _Read(kv=kv, problem=f"its value is too large: {kv.dropped_bytes} bytes")
    try:
        lease = parse_lease(name, kv.value, created=kv.create_revision)
    except MalformedLease as error:
        return _Read(kv=kv, problem=str(error))
    return _Read(kv=kv, lease=lease, key_name=lease.key_name)


def _second_spellings(read: Mapping[str, _Read]) -> dict[str, str]:
    """The keys that name the same subnets as another key, with that key: IPv6 addresses have many spellings."""
    odd = sorted(name for name, one in read.items() if one.lease is not None and one.key_name != name)
    first: dict[str, str] = {}
    twins: dict[str, str] = {}
    for name in odd:
        # The key as overlayd and flannel write it counts, else the first by name.
        key_name = read[name].key_name
        own = read.get(key_name)
        twin = key_name if own is not None and own.key_name == key_name else first.setdefault(key_name, name)
        if twin != name:
            twins[name] = twin
    return twins


def uncontradicted(old: Mapping[str, Lease], new: Mapping[str, Lease]) -> dict[str, Lease]:
    """The old leases whose public address no new lease has, and whose subnets no new lease overlaps with."""
    if not old:
        return {}
    addresses = {lease.public_ip for lease in new.values()}
    taken = _SubnetSet(subnet for lease in new.values() for subnet in lease.subnets)
    return {
        name: lease
        for name, lease in old.items()
        if lease.public_ip not in addresses and not any(taken.overlaps(subnet) for subnet in lease.subnets)
    }


class _SubnetSet:
    """Many subnets, asked whether one of them overlaps with another subnet; each answer takes a few look-ups."""

    def __init__(self, subnets: Iterable[IPNetwork]) -> None:
        self._first: dict[int, list[int]] = {4: [], 6: []}
        self._numbers: dict[tuple[int, int], set[int]] = {}
        for one in subnets:
            first = int(one.network_address)
            self._first[one.version].append(first)
            host_bits = one.max_prefixlen - one.prefixlen
            self._numbers.setdefault((one.version, one.prefixlen), set()).add(first >> host_bits)
        for found in self._first.values():
            found.sort()

    def overlaps(self, subnet: IPNetwork) -> bool:
        first, last = int(subnet.network_address), int(subnet.broadcast_address)
        wider = any(
            first >> (subnet.max_prefixlen - length) in numbers
            for (version, length), numbers in self._numbers.items()
            if version == subnet.version and length <= subnet.prefixlen
        )
        begins = self._first[subnet.version]
        place = bisect_left(begins, first)
        return wider or (place < len(begins) and begins[place] <= last)

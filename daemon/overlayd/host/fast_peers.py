"""The peers of the fast path: which of those that the backend serves, as the programs know them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

from overlayd.backends.wire import Wire, WireFormat
from overlayd.fastpath.programs import Programs
from overlayd.fastpath.records import Peer
from overlayd.host.data_path import DataPath
from overlayd.host.parts import HostContext
from overlayd.kernel import interfaces
from overlayd.leases.lease import Lease
from overlayd.lib.quick_dataclass import dataclass

EVERY_ADDRESS = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, kw_only=True)
class _PackedPeer:
    lease: Lease
    path: str
    key: bytes
    value: bytes


class FastPeers:
    """Writes the peers into the programs' map. Called in one thread."""

    def __init__(self, context: HostContext, data_path: DataPath) -> None:
        """Reads nothing yet."""
        self._context = context
        self._data_path = data_path
        self._written: tuple[tuple[Lease, ...], Mapping[str, str]] | None = None
        # By the names of their leases: packing thousands again for each that comes would take longer than all else.
        self._packed: dict[str, _PackedPeer] = {}
        self._paths: Mapping[str, str] | None = None
        self._has_direct = False
        self._elsewhere: frozenset[str] = frozenset()
        self._elsewhere_at: tuple[int, tuple[Lease, ...]] | None = None
        self._refuses: tuple[tuple[Lease, ...], str | None] | None = None
        self.receive_only = False
        """This kernel cannot write VXLAN's headers; found out by trying."""

    def forget(self) -> None:
        """The programs have a new map."""
        self._written = None

    def leave_sending(self) -> None:
        """From now on, leave to the kernel what is to be sent by VXLAN."""
        if not self.receive_only:
            self.receive_only, self._written = True, None
            self._packed.clear()

    def has_direct(self, wire: Wire) -> bool:
        """Whether a plain route leads to any peer."""
        paths = self._data_path.paths
        if self._paths is not paths:
            self._paths = paths
            self._has_direct = any(wire.paths.get(path) is WireFormat.DIRECT for path in paths.values())
        return self._has_direct

    def refuses_unfinished(self, wire: Wire) -> str | None:
        """The address of a peer that takes packets only as they are on a wire: cut, and with checksums; None if none.

        A flannel's socket gets others as they are, and passes them on so.
        """
        served, key = self._data_path.served, wire.unfinished_key.lower()
        if not key:
            return None
        if self._refuses is None or self._refuses[0] is not served:
            there = (lease.v4 for lease in served)
            refusing = (str(found.public_ip) for found in there if found and found.fields().get(key) is not True)
            self._refuses = served, next(refusing, None)
        return self._refuses[1]

    def all_elsewhere(self, wire: Wire) -> bool:
        """Read to which peers the kernel sends by another interface than the underlay's, the only one of the programs.

        Returns whether that is all of them: with the underlay's address on a dummy interface, as routers have it.
        Raises KernelRefused.
        """
        served, ifname = self._data_path.served, self._context.underlay.ifname
        changes, before = self._context.watch.changes(), self._elsewhere_at
        if before is None or before[0] != changes or before[1] is not served:
            found = self._read_elsewhere(wire, ifname)
            if found != self._elsewhere:
                self._elsewhere, self._written = found, None
                self._packed.clear()
            self._elsewhere_at = changes, served
        return bool(self._elsewhere) and len(self._elsewhere) == len(served)

    def _read_elsewhere(self, wire: Wire, ifname: str) -> frozenset[str]:
        there = [one for one in interfaces.foreign_routes(EVERY_ADDRESS) if isinstance(one.dst, IPv4Network)]
        masks = [(int(one.dst.network_address), int(one.dst.netmask), one) for one in there]
        found = set()
        for lease in self._data_path.served:
            how, public = wire.paths.get(self._data_path.paths.get(lease.key_name, "")), lease.v4
            if how is None or how is WireFormat.DIRECT or public is None:
                continue
            number = int(public.public_ip)
            best = [one for base, mask, one in masks if number & mask == base]
            longest = max((one.dst.prefixlen for one in best), default=-1)
            best = [one for one in best if one.dst.prefixlen == longest]
            least = min((one.metric for one in best), default=0)
            if any(one.link not in (ifname, None) or one.several for one in best if one.metric == least):
                found.add(lease.key_name)
        return frozenset(found)

    def write(self, programs: Programs, wire: Wire) -> bool:
        """Make the programs' peers those of the data path; whether any was not. Raises KernelRefused."""
        served, paths = self._data_path.served, self._data_path.paths
        if self._written is not None and self._written[0] is served and self._written[1] is paths:
            return False
        known, self._packed = self._packed, {}
        for lease in served:
            path, before = paths.get(lease.key_name, ""), known.get(lease.key_name)
            if before is not None and before.lease is lease and before.path == path:
                self._packed[lease.key_name] = before
            elif peer := self._peer(lease, path, wire):
                packed = _PackedPeer(lease=lease, path=path, key=peer.key(), value=peer.packed())
                self._packed[lease.key_name] = packed
        changed = programs.write_peers({one.key: one.value for one in self._packed.values()})
        self._written = (served, paths)
        return changed

    def _peer(self, lease: Lease, path: str, wire: Wire) -> Peer | None:
        """A peer as the programs know it; None for one that they do not serve."""
        found, how = lease.v4, wire.paths.get(path)
        if found is None or how is None or lease.key_name in self._elsewhere:
            return None
        mac = found.fields().get("vtepmac") if how is WireFormat.VXLAN else None
        if not isinstance(found.subnet, IPv4Network) or not isinstance(found.public_ip, IPv4Address):
            return None
        return Peer(
            subnet=found.subnet,
            address=found.public_ip,
            format=how,
            mtu_bytes=self._context.backend.mtu_bytes,
            receive_only=self.receive_only and how is WireFormat.VXLAN,
            **({"mac": str(mac)} if mac else {}),
        )

"""The part of the host that lets packets between containers take the fast path, where nobody's rules are bypassed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, ClassVar

from overlayd.backends.wire import Wire, WireFormat
from overlayd.errors import OverlaydError, UnsupportedError
from overlayd.fastpath.allowed import PacketWay, rule_in_the_way
from overlayd.fastpath.programs import Programs
from overlayd.fastpath.records import Peer, Port, Reason, Settings
from overlayd.host.data_path import DataPath
from overlayd.host.parts import DesiredHost, HostContext, PartReport
from overlayd.kernel import container_ports, ethtool, interfaces, policies, tc
from overlayd.kernel.container_ports import Bridge
from overlayd.kernel.interfaces import read_bridges, router_macs, with_address_in
from overlayd.kernel.tc import Direction, Filter
from overlayd.leases.lease import Lease
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.counters import counter, gauge
from overlayd.lib.log import logger
from overlayd.ruleset import survey
from overlayd.underlay.choose import UnderlayEndpoint

log = logger("host")

# How long the programs go on without a daemon, in seconds, and at least in looks; then packets go the kernel's way.
VALID_S, VALID_LOOKS = 30.0, 4
# Rules are read this often, in seconds, also when the kernel told of no change.
RULES_S = 300.0
# The largest network of peers that one route can be about: any address.
_EVERY_ADDRESS = IPv4Network("0.0.0.0/0")

PACKETS = counter(
    "overlayd_fast_path_packets_total",
    "Packets that the fast path sent and received, and those that it left to the kernel or dropped, by reason.",
    label="reason",
)
ON = gauge("overlayd_fast_path_on", "1 while packets between containers take the fast path, else 0.")


class _Off(Exception):
    """Why packets go the kernel's way."""


@dataclass(frozen=True, kw_only=True)
class _PackedPeer:
    lease: Lease
    path: str
    key: bytes
    value: bytes


class FastPathPart:
    """Keeps the programs attached, or away. Called in one thread."""

    name: ClassVar[str] = "fast path"

    def __init__(
        self, context: HostContext, data_path: DataPath, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Changes nothing yet. `clock` is in seconds."""
        self._context = context
        self._data_path = data_path
        self._clock = clock
        self._programs: Programs | None = None
        self._attached: dict[tuple[int, Direction], str] = {}
        # What a daemon before this one left is looked for once.
        self._searched = False
        self._shown: str | None = ""
        self._written: tuple[tuple[Lease, ...], Mapping[str, str]] | None = None
        # By the names of their leases: packing thousands again for each that comes would take longer than all else.
        self._packed: dict[str, _PackedPeer] = {}
        self._paths: Mapping[str, str] | None = None
        self._has_direct = False
        self._unsupported: str | None = None
        # This kernel cannot write VXLAN's headers; found out by trying.
        self._receive_only = False
        # At which news of the kernel's, for which subnets, and the route that was in the way then.
        self._routes: tuple[tuple[int, frozenset[IPNetwork]], IPNetwork | None] | None = None
        self._elsewhere: frozenset[str] = frozenset()
        self._elsewhere_at: tuple[int, tuple[Lease, ...]] | None = None
        self._rules: tuple[PacketWay, int | None, float, str | None] | None = None

    def close(self) -> None:
        """The programs go on until their settings expire, so that packets do while the daemon is restarted."""
        if self._programs is not None:
            self._programs.close()
            self._programs = None
            self._attached.clear()

    def sync(self, desired: DesiredHost) -> PartReport:
        """Attach the programs and keep their maps, or take them away where they must not be."""
        reason, changed, wire = self._never(), False, None
        whole = reason is not None
        try:
            if reason is not None:
                raise _Off(reason)
            own, network, endpoint = self._needed(desired)
            wire = self._context.backend.wire(4)
            if wire is None:
                whole = True
                raise _Off(f"only the backend {self._context.config.backend_type} itself can make its packets")
            changed = self._on(wire, own, network, endpoint)
        except (_Off, OverlaydError, OSError) as error:
            # OSError: an interface has gone since it was read, a file cannot be read. Packets go all the same.
            reason = str(error)
            try:
                changed = self._off(whole=whole)
            except (OverlaydError, OSError) as failed:
                reason = f"{reason}; and it cannot be taken away: {failed}"
        if reason != self._shown:
            log.info("fast path", state="off" if reason else "on", reason=reason)
            self._shown = reason
        ON.set(0 if reason else 1)
        if reason is None and self._receive_only:
            reason = "packets that arrive take it, and this kernel cannot write VXLAN's headers (Linux 5.13 can)"
        status: dict[str, Any] = {"fast_path": reason or "on", "fast_paths": ()}
        if wire is not None and reason is None:
            status["fast_paths"] = tuple(sorted(wire.paths))
        return PartReport(changed=changed, status=status)

    def _never(self) -> str | None:
        """Why packets go the kernel's way as long as this daemon runs; None where they need not."""
        if self._context.settings.fast_path == "off":
            return "the setting fast-path is off"
        return self._unsupported

    def _needed(self, desired: DesiredHost) -> tuple[IPv4Network, IPv4Network, UnderlayEndpoint]:
        """This host's subnet, the network, and where peers reach this host. Raises _Off."""
        own, endpoint = desired.lease.v4, self._context.underlay.v4
        network = next((one for one in self._context.config.networks if isinstance(one, IPv4Network)), None)
        if own is None or network is None or not isinstance(own.subnet, IPv4Network):
            raise _Off("it carries IPv4, which this network has not")
        if endpoint is None or not isinstance(endpoint.address, IPv4Address):
            raise _Off("the underlay has no IPv4")
        return own.subnet, network, endpoint

    def _on(self, wire: Wire, own: IPv4Network, network: IPv4Network, endpoint: UnderlayEndpoint) -> bool:
        """Make it work; whether anything was not as it should be. Raises _Off, KernelRefused, UnsupportedError."""
        underlay = self._context.underlay
        if wire.format is WireFormat.UDP and not ethtool.finishes_packets(underlay.ifname):
            raise _Off(
                f"{underlay.ifname} may hand packets on uncut and without checksums, and peers read from a socket; "
                f"ethtool -K {underlay.ifname} tx off tx-udp_tnl-segmentation off"
            )
        bridge = self._bridge(own)
        if not bridge.up:
            raise _Off(f"{bridge.name} is switched off")
        if bridge.limited:
            raise _Off(f"it would bypass the queueing discipline of {bridge.name}: see tc qdisc")
        self._read_paths(wire)
        self._check_routes(own, network)
        devices = (wire.device, underlay.ifname) if self._has_direct else (wire.device,)
        self._check(
            PacketWay(
                own=own,
                network=network,
                bridge=bridge.name,
                devices=tuple(dict.fromkeys(devices)),
                underlay=underlay.ifname,
                address=endpoint.address,
                peers=_EVERY_ADDRESS,
                port=wire.port,
            )
        )
        places = self._places(wire, own, bridge)
        # By the bridge nothing of ours passes: but what filters there would be bypassed.
        filters = {index: tc.filters(index) for index in {bridge.index, *(index for index, _ in places)}}
        _refuse_others(filters)
        programs = self._programs
        if programs is None:
            try:
                programs = self._programs = Programs()
            except UnsupportedError as error:
                # It will not be otherwise before the next start.
                self._unsupported = error.message
                raise
            self._written = None
        self._read_elsewhere(wire)
        changed = self._write_peers(programs, wire)
        if self._has_direct:
            macs = router_macs(underlay.ifname, self._data_path.served_from)
            changed = programs.write_routers(macs) or changed
        changed = programs.write_ports(_ports(bridge, own)) or changed
        valid_s = max(VALID_S, VALID_LOOKS * self._context.settings.resync_s)
        programs.write_settings(
            Settings(
                valid_until_ns=time.monotonic_ns() + int(valid_s * 1e9),
                address=IPv4Address(endpoint.address),
                underlay=socket.if_nametoindex(underlay.ifname),
                vni=wire.vni,
                port=wire.port,
                mac=wire.mac,
            )
        )
        changed = self._attach(programs, places, filters) or changed
        counted = programs.counters()
        for reason, count in counted.items():
            PACKETS.set(count, of=reason.name.lower())
        if counted[Reason.OUT_FAILED] and not counted[Reason.SENT] and not self._receive_only:
            self._receive_only, self._written = True, None
            self._packed.clear()
        return changed

    def _bridge(self, own: IPv4Network) -> Bridge:
        guests = read_bridges().of_guests
        for name in with_address_in((own,)):
            if name in guests and (found := container_ports.read(name)):
                return found
        raise _Off("no bridge carries this host's subnet yet")

    def _check(self, way: PacketWay) -> None:
        """Raises _Off where packets would pass by what has a say about them."""
        if policies.has_ipsec():
            raise _Off("it would bypass IPsec: see ip xfrm policy")
        rule = next(policies.routing_rules(4), None)
        if rule is not None:
            raise _Off(f"it would bypass {rule}: see ip rule")
        generation, now = policies.nftables_generation(), self._clock()
        known = self._rules
        if (
            known is None
            or known[:2] != (way, generation)
            or now - known[2] > RULES_S
            or policies.has_legacy_iptables()
        ):
            kinds = survey.read_iptables([4])
            known = (way, generation, now, rule_in_the_way(kinds, survey.read_nftables(kinds), way))
            self._rules = known
        if known[3] is not None:
            raise _Off(f"it would bypass a firewall rule: {known[3]}")

    def _check_routes(self, own: IPv4Network, network: IPv4Network) -> None:
        """Raises _Off where a route of an administrator's leads some containers' packets elsewhere, or drops them."""
        state = self._context.watch.changes(), self._data_path.served_subnets
        if self._routes is None or self._routes[0] != state:
            subnets = {own, *state[1]}
            in_the_way = (
                route.dst
                for route in interfaces.foreign_routes(network)
                if any(
                    route.dst.version == subnet.version
                    and route.dst.subnet_of(subnet)  # type: ignore[arg-type]
                    and (route.link is None or route.dst != subnet)
                    for subnet in subnets
                )
            )
            self._routes = state, next(in_the_way, None)
        if self._routes[1] is not None:
            raise _Off(f"it would bypass the route to {self._routes[1]}: see ip route")

    def _places(self, wire: Wire, own: IPv4Network, bridge: Bridge) -> dict[tuple[int, Direction], str]:
        """Where which program is to be. Raises _Off where an interface is missing."""
        try:
            underlay = socket.if_nametoindex(self._context.underlay.ifname)
            device = socket.if_nametoindex(wire.device)
        except OSError as error:
            raise _Off(f"the interface {wire.device} is missing: {error.strerror}") from error
        places = {(port.index, Direction.INGRESS): "from_container" for port in bridge.fast(own)}
        places[underlay, Direction.INGRESS] = "from_wire"
        places[device, Direction.EGRESS] = "left_ethernet" if wire.ethernet else "left_ip"
        if self._has_direct:
            places[underlay, Direction.EGRESS] = "left_ethernet"
        return places

    def _attach(
        self,
        programs: Programs,
        places: Mapping[tuple[int, Direction], str],
        filters: Mapping[int, Sequence[Filter]],
    ) -> bool:
        changed = False
        there = {(one.index, one.direction) for found in filters.values() for one in found if one.ours}
        for (index, direction), name in places.items():
            # Those of a daemon before this one have its maps.
            if (index, direction) not in self._attached or (index, direction) not in there:
                programs.attach(index, direction, name)
                changed = True
        for index in {index for index, _ in self._attached} - {index for index, _ in places}:
            changed = tc.detach(index) or changed
        for index in {index for index, _ in places}:
            # Another backend, or another way to peers, has a program at one end of an interface only.
            if any(one.ours and (index, one.direction) not in places for one in filters[index]):
                changed = tc.detach(index, keep={direction for at, direction in places if at == index}) or changed
        self._attached = dict(places)
        if not self._searched:
            # What a daemon before this one left on interfaces that are none of these.
            kept = {index for index, _ in places}
            for index, _name in socket.if_nameindex():
                if index not in kept:
                    tc.detach(index)
            self._searched = True
        return changed

    def _write_peers(self, programs: Programs, wire: Wire) -> bool:
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

    def _read_paths(self, wire: Wire) -> None:
        """Whether a plain route leads to any peer."""
        paths = self._data_path.paths
        if self._paths is not paths:
            self._paths = paths
            self._has_direct = any(wire.paths.get(path) is WireFormat.DIRECT for path in paths.values())

    def _read_elsewhere(self, wire: Wire) -> None:
        """Which peers the kernel sends to by another interface than the underlay's, the only one of the programs.

        Raises _Off where that is all of them: with the underlay's address on a dummy interface, as routers have it.
        """
        served, ifname = self._data_path.served, self._context.underlay.ifname
        state = self._context.watch.changes(), served
        if self._elsewhere_at is not None and self._elsewhere_at[0] == state[0] and self._elsewhere_at[1] is served:
            return
        there = [one for one in interfaces.foreign_routes(_EVERY_ADDRESS) if isinstance(one.dst, IPv4Network)]
        masks = [(int(one.dst.network_address), int(one.dst.netmask), one) for one in there]
        found = set()
        for lease in served:
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
        if found != self._elsewhere:
            self._elsewhere, self._written = frozenset(found), None
            self._packed.clear()
        self._elsewhere_at = state
        if found and len(found) == len(served):
            self._elsewhere_at = None
            raise _Off(f"the routes to all peers are by other interfaces than {ifname}")

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
            receive_only=self._receive_only and how is WireFormat.VXLAN,
            **({"mac": str(mac)} if mac else {}),
        )

    def _off(self, *, whole: bool) -> bool:
        """Let the programs leave all to the kernel; take them away if `whole`, or where they are another daemon's.

        Returns whether there were any. Raises KernelRefused.
        """
        if self._programs is not None and not whole:
            # Taking them away and back would cost packets (kernel/tc.py).
            self._programs.stop()
            return False
        found: list[str] = []
        if self._attached or not self._searched:
            found = list(tc.cleanup())
            self._searched = True
        self.close()
        return bool(found)


def _refuse_others(filters: Mapping[int, Sequence[Filter]]) -> None:
    """Raises _Off where a filter of others would be bypassed."""
    for index, found in filters.items():
        foreign = next((one for one in found if not one.of_overlayd), None)
        if foreign is not None:
            raise _Off(f"it would bypass another filter at interface {index}: {foreign}")


def _ports(bridge: Bridge, own: IPv4Network) -> Iterator[Port]:
    for port in bridge.fast(own):
        address = port.address_in(own)
        if address is not None:
            yield Port(index=port.index, address=address, mac=port.mac, bridge_mac=bridge.mac)

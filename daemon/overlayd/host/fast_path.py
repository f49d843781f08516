"""The part of the host that lets packets between containers take the fast path, where nobody's rules are bypassed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any, ClassVar

from overlayd.backends.wire import Wire
from overlayd.errors import OverlaydError, UnsupportedError
from overlayd.fastpath.allowed import PacketWay, rule_in_the_way
from overlayd.fastpath.programs import Programs
from overlayd.fastpath.records import Port, Reason, Settings
from overlayd.host.data_path import DataPath
from overlayd.host.fast_peers import EVERY_ADDRESS, FastPeers
from overlayd.host.parts import DesiredHost, HostContext, PartReport
from overlayd.kernel import attached, ethtool, interfaces, policies
from overlayd.kernel.container_ports import ALL_S, Bridge, ContainerPorts
from overlayd.kernel.interfaces import router_macs
from overlayd.kernel.links import ARPHRD_ETHER
from overlayd.kernel.tc import Direction, Filter
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

PACKETS = counter(
    "overlayd_fast_path_packets_total",
    "Packets that the fast path sent and received, and those that it left to the kernel or dropped, by reason.",
    label="reason",
)
ON = gauge("overlayd_fast_path_on", "1 while packets between containers take the fast path, else 0.")


class _Off(Exception):
    """Why packets go the kernel's way."""


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
        self._peers = FastPeers(context, data_path)
        self._unsupported: str | None = None
        # At which news of the kernel's, for which subnets, and the route that was in the way then.
        self._routes: tuple[tuple[int, frozenset[IPNetwork]], IPNetwork | None] | None = None
        self._containers = ContainerPorts(clock)
        self._at_containers: dict[int, tuple[float, tuple[Filter, ...]]] = {}
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
        if reason is None and self._peers.receive_only:
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
        if interfaces.read_link(underlay.ifname).hardware != ARPHRD_ETHER:
            raise _Off(f"packets of {underlay.ifname} have no Ethernet header, which the programs read and write")
        if (refuses := self._peers.refuses_unfinished(wire)) and not ethtool.finishes_packets(underlay.ifname):
            raise _Off(
                f"{underlay.ifname} may hand packets on uncut and without checksums, which the peer {refuses} does not "
                f"take; ethtool -K {underlay.ifname} tx off tx-udp_tnl-segmentation off"
            )
        bridge = self._bridge(own)
        if not bridge.up:
            raise _Off(f"{bridge.name} is switched off")
        if bridge.bypassed:
            raise _Off(f"it would bypass {bridge.bypassed}")
        has_direct = self._peers.has_direct(wire)
        self._check_routes(own, network)
        devices = (wire.device, underlay.ifname) if has_direct else (wire.device,)
        self._check(
            PacketWay(
                own=own,
                network=network,
                bridge=bridge.name,
                devices=tuple(dict.fromkeys(devices)),
                underlay=underlay.ifname,
                address=endpoint.address,
                peers=EVERY_ADDRESS,
                port=wire.port,
            )
        )
        places = self._places(wire, own, bridge)
        if wire.device != underlay.ifname and (bypassed := interfaces.bypassed_at(interfaces.read_link(wire.device))):
            raise _Off(f"it would bypass {bypassed}")
        # By the bridge nothing of ours passes: but what filters there would be bypassed.
        filters = self._filters(bridge, places)
        _refuse_others(filters)
        programs = self._programs
        if programs is None:
            try:
                programs = self._programs = Programs()
            except UnsupportedError as error:
                # It will not be otherwise before the next start.
                self._unsupported = error.message
                raise
            self._peers.forget()
        if self._peers.all_elsewhere(wire):
            raise _Off(f"the routes to all peers are by other interfaces than {underlay.ifname}")
        changed = self._peers.write(programs, wire)
        if has_direct:
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
        if counted[Reason.OUT_FAILED] and not counted[Reason.SENT]:
            self._peers.leave_sending()
        return changed

    def _filters(self, bridge: Bridge, places: Iterable[tuple[int, Direction]]) -> dict[int, tuple[Filter, ...]]:
        """The filters at every place and at the bridge; those at containers are read again every ALL_S only."""
        now, of_containers = self._clock(), {port.index for port in bridge.ports}
        known, self._at_containers = self._at_containers, {}
        found = {}
        for index in {bridge.index, *(index for index, _ in places)}:
            at, there = known.get(index, (float("-inf"), ()))
            if index not in of_containers or now - at >= ALL_S:
                at, there = now, attached.read(index)
            found[index] = there
            if index in of_containers:
                self._at_containers[index] = at, there
        return found

    def _bridge(self, own: IPv4Network) -> Bridge:
        there = self._context.watch.interfaces()
        for name in there.with_address_in((own,)):
            if name in there.bridges.of_guests and (found := self._containers.read(name)):
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
        places = {(port.index, Direction.INGRESS): "overlayd_out" for port in bridge.fast(own)}
        places[underlay, Direction.INGRESS] = "overlayd_in"
        places[device, Direction.EGRESS] = "overlayd_left" if wire.ethernet else "overlayd_leftip"
        if self._peers.has_direct(wire):
            places[underlay, Direction.EGRESS] = "overlayd_left"
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
                self._at_containers.pop(index, None)
                changed = True
        for index in {index for index, _ in self._attached} - {index for index, _ in places}:
            changed = attached.detach(index) or changed
        for index in {index for index, _ in places}:
            # Another backend, or another way to peers, has a program at one end of an interface only.
            if any(one.ours and (index, one.direction) not in places for one in filters[index]):
                changed = attached.detach(index, keep={direction for at, direction in places if at == index}) or changed
        self._attached = dict(places)
        if not self._searched:
            # What a daemon before this one left on interfaces that are none of these.
            attached.keep_only({index for index, _ in places})
            self._searched = True
        return changed

    def _off(self, *, whole: bool) -> bool:
        """Let the programs leave all to the kernel; take them away if `whole`, or where they are another daemon's.

        Returns whether there were any. Raises KernelRefused.
        """
        if self._programs is not None and not whole:
            # By clsact, taking them away and back would cost packets (kernel/tc.py).
            self._programs.stop()
            return False
        found: list[str] = []
        if self._attached or not self._searched:
            found = list(attached.cleanup())
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

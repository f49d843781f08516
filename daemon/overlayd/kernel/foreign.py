"""Routes that are not ours, and which desired routes they conflict with. Pure: no I/O.

A route of others is neither replaced nor shadowed: somebody reaches a network by it, and would not get it back when
ours is deleted. The exception are the routes of a flannel that ran on this host: by a device of flannel's, or by
exactly the next hop that the lease names. A route that is wider than the network conflicts with nothing: the longer
prefix wins.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field

from overlayd.kernel.state import KernelObject, Route
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.marks import network_of_route
from overlayd.lib.quick_dataclass import dataclass

BRIDGE = "docker0"
FLANNEL = "flannel"
# linux/rtnetlink.h, /etc/iproute2/rt_protos
_PROTOCOLS = {0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp", 186: "bgp"}
_KERNEL = 2
# flannel writes 0; older versions and `ip` write boot; administrators and other tools write static.
_BY_HAND = (0, 3, 4)


@dataclass(frozen=True, kw_only=True)
class ForeignRoute:
    """One route of the main table without our protocol number. Without a `link` it drops packets.

    `several`: it has more next hops than the one that is shown. A `metric` of 0 is the family's usual one.
    """

    dst: IPNetwork
    link: str | None
    via: IPAddress | None = None
    several: bool = False
    metric: int = 0
    protocol: int = 0

    @property
    def selector(self) -> str:
        """The arguments of `ip route delete` that select it."""
        parts = [str(self.dst)]
        if not self.several:
            parts += ["via", str(self.via)] if self.via else []
            parts += ["dev", self.link] if self.link else []
        parts += ["metric", str(self.metric)] if self.metric else []
        return " ".join(parts)

    def __str__(self) -> str:
        kind = "" if self.link else "blackhole "
        return f"{kind}{self.selector} proto {_PROTOCOLS.get(self.protocol, self.protocol)}"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A peer's subnet, and the address that its lease names."""

    subnet: IPNetwork
    public_ip: IPAddress


@dataclass(frozen=True, kw_only=True)
class RouteConflicts:
    """Which desired routes conflict with routes of others, each with a sentence about the conflict.

    `base` are routes of this host's own that are not made; `peers` those that are not served; `partly` those that are
    served, though packets to a part of their subnet go elsewhere. `taken` are desired routes that replace flannel's.
    """

    base: Mapping[Route, str] = field(default_factory=dict)
    peers: Mapping[str, str] = field(default_factory=dict)
    partly: Mapping[str, str] = field(default_factory=dict)
    taken: frozenset[Route] = frozenset()


def find_conflicts(
    base: Iterable[KernelObject],
    peers: Mapping[str, Collection[KernelObject]],
    destinations: Mapping[str, Sequence[Destination]],
    foreign: Iterable[ForeignRoute],
    links: Collection[str],
) -> RouteConflicts:
    """Compare what is desired with routes of others. `links` are the names of our own devices."""
    there = _Table(route for route in foreign if route.link not in links)
    if not there:
        return RouteConflicts()
    stopped, taken = _of_base(there, base)
    blocked: dict[str, str] = {}
    partly: dict[str, str] = {}
    for name, subnets in destinations.items():
        routes = {item.dst: item for item in peers.get(name, ()) if isinstance(item, Route)}
        replacing: set[Route] = set()
        for one in subnets:
            route = routes.get(one.subnet)
            if route is None:
                problem = None
                detour = _detour(there, one.subnet, {route.dst for route in stopped})
            else:
                problem, replaces = _conflict(there, route, one)
                replacing |= {route} if replaces else set()
                detour = None
            detour = detour or _detour_of_part(there, one.subnet)
            if problem is not None:
                blocked.setdefault(name, problem)
            elif detour is not None:
                partly.setdefault(name, detour)
        if name not in blocked:
            taken |= replacing
    return RouteConflicts(
        base=stopped,
        peers=blocked,
        partly={name: text for name, text in partly.items() if name not in blocked},
        taken=frozenset(taken),
    )


def _of_base(there: _Table, base: Iterable[KernelObject]) -> tuple[dict[Route, str], set[Route]]:
    """Which routes of this host's own part are not made, and why; and which replace flannel's."""
    stopped: dict[Route, str] = {}
    taken: set[Route] = set()
    for desired in base:
        # Our blackhole has the highest metric: any other route to the same network is meant to win.
        if not isinstance(desired, Route) or desired.link is None:
            continue
        for route in there.to(desired.dst):
            if not _is_flannels(route):
                stopped[desired] = f"{route} is in the way of the network's own route: {_advice(route)}"
            elif route.metric == desired.metric:
                taken.add(desired)
    return stopped, taken - stopped.keys()


def _conflict(there: _Table, desired: Route, to: Destination) -> tuple[str | None, bool]:
    """Why a route to a peer is not made; and whether it replaces flannel's."""
    replaces = False
    for route in there.covering(to.subnet):
        if _may_be_taken(route, desired, to):
            replaces = True
        elif (problem := _in_the_way(route, to.subnet)) is not None:
            return problem, False
    return None, replaces


def _detour(there: _Table, subnet: IPNetwork, stopped: Collection[IPNetwork]) -> str | None:
    """A sentence where a longer prefix of others wins over our one route for the whole network; else None."""
    for route in there.covering(subnet):
        if not _is_flannels(route) and route.dst not in stopped:
            return f"its subnet {subnet} goes elsewhere, by {route}: {_advice(route)}"
    return None


def _detour_of_part(there: _Table, subnet: IPNetwork) -> str | None:
    for route in there.inside(subnet):
        if not _is_flannels(route) and route.link != BRIDGE:
            return f"a part of its subnet {subnet} goes elsewhere, by {route}: {_advice(route)}"
    return None


class _Table:
    """Routes by their destination."""

    def __init__(self, routes: Iterable[ForeignRoute]) -> None:
        self._by_destination: dict[tuple[int, int, int], list[ForeignRoute]] = defaultdict(list)
        for route in routes:
            self._by_destination[_key(route.dst)].append(route)
        # In the order of addresses; of those with one base address, the wider first.
        self._keys = sorted(self._by_destination)
        self._lengths = {version: sorted({key[2] for key in self._keys if key[0] == version}) for version in (4, 6)}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def to(self, subnet: IPNetwork) -> Sequence[ForeignRoute]:
        """The routes to exactly this subnet."""
        return self._by_destination.get(_key(subnet), ())

    def covering(self, subnet: IPNetwork) -> Iterator[ForeignRoute]:
        """The routes to this subnet, and to networks that contain it."""
        version, base, length = _key(subnet)
        for wider in self._lengths[version]:
            if wider <= length:
                shift = subnet.max_prefixlen - wider
                yield from self._by_destination.get((version, base >> shift << shift, wider), ())

    def inside(self, subnet: IPNetwork) -> Iterator[ForeignRoute]:
        """The routes to parts of this subnet."""
        version, base, length = _key(subnet)
        first = bisect_right(self._keys, (version, base, length))
        last = bisect_left(self._keys, (version, int(subnet.broadcast_address) + 1, 0))
        for key in self._keys[first:last]:
            if key[2] > length:
                yield from self._by_destination[key]


def _key(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _is_flannels(route: ForeignRoute) -> bool:
    return route.link is not None and route.link.startswith(FLANNEL)


def _may_be_taken(route: ForeignRoute, desired: Route, to: Destination) -> bool:
    """Whether a route is the one that flannel made for the same lease: by its device, or by the peer as next hop."""
    if (route.dst, route.metric) != (desired.dst, desired.metric):
        return False
    by_the_peer = route.via == to.public_ip and route.protocol in _BY_HAND and not route.several
    return _is_flannels(route) or by_the_peer


def _in_the_way(route: ForeignRoute, subnet: IPNetwork) -> str | None:
    if _is_flannels(route):
        return None
    if route.dst == subnet:
        return f"{route} is in the way of its subnet {subnet}: {_advice(route)}"
    # docker0 is about to move to our own subnet; and a route that drops packets reaches no host.
    if route.link in (BRIDGE, None):
        return None
    return f"its subnet {subnet} is a part of what {route} leads to: {_advice(route)}"


def _advice(route: ForeignRoute) -> str:
    network = network_of_route(route.protocol)
    if network is not None:
        return f"it is of network {network} of this host: no two of them can have one address"
    if route.protocol != _KERNEL:
        family = "-6 " if route.dst.version == 6 else ""
        return f"it is not overlayd's and stays; if nobody needs it: ip {family}route delete {route.selector}"
    if route.link == BRIDGE:
        return "docker is still on that subnet: overlayd docker settle"
    return f"{route.link} is a network of this host's own: give it another subnet (docker network ls)"

"""Make the kernel hold what a backend plans, and report which peers are affected by what it refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import field, replace
from itertools import chain

from overlayd.errors import NetworkConfigError
from overlayd.kernel import netlink
from overlayd.kernel.diff import diff
from overlayd.kernel.foreign import Destination, ForeignRoute, RouteConflicts, find_conflicts
from overlayd.kernel.state import Address, KernelObject, KernelState, Link, Route, link_settings
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class ConvergeReport:
    """The result of one convergence: how many operations were carried out, and what failed.

    Peers are named by the last part of their lease's key. `problems` are of this host's own part, `peer_problems` of
    one peer each; `paths` says in a word how each of the others is reached. `unlisted` counts peers that are not served
    either, but are too many to be listed. `refused` counts operations. `held` is all that was planned,
    and `foreign` are the routes of others in the network. `forwarder` is what Status says of it.
    """

    written: int = 0
    problems: tuple[str, ...] = ()
    peer_problems: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    unlisted: int = 0
    refused: int = 0
    held: frozenset[KernelObject] = frozenset()
    foreign: tuple[ForeignRoute, ...] = ()
    forwarder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a backend plans for the kernel: `base`, on which everything stands, and what each of `peers` adds.

    Peers are named by the last part of their lease's key. `problems` are those that cannot be programmed at all, with
    the reason; `paths` says in a word how each of the others is reached, `destinations` what is reached there. Routes
    of others inside `networks` are left alone. `unlisted` counts peers that are not served either, but are too many to
    be listed in `problems`.
    """

    base: tuple[KernelObject, ...] = ()
    peers: Mapping[str, tuple[KernelObject, ...]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    destinations: Mapping[str, tuple[Destination, ...]] = field(default_factory=dict)
    networks: tuple[IPNetwork, ...] = ()
    unlisted: int = 0

    def state(self) -> KernelState:
        """The plan as one desired state, with the settings of each link."""
        objects = {*self.base, *chain.from_iterable(self.peers.values())}
        with_ipv6 = {item.link for item in objects if isinstance(item, Address) and item.address.version == 6}
        for link in [item for item in objects if isinstance(item, Link)]:
            objects.update(link_settings(link.name, ipv6=link.name in with_ipv6))
        return KernelState(frozenset(objects))


def require(plan: Plan) -> None:
    """Make the base of a plan, and delete nothing: what an earlier run left goes on carrying packets.

    Raises NetworkConfigError where a route of others conflicts with it, UnsupportedError, or the first KernelRefused.
    """
    plan = replace(plan, peers={}, destinations={})
    actual, foreign = netlink.read_with_foreign(plan.networks)
    conflicts = conflicts_of(plan, actual, foreign)
    for problem in conflicts.base.values():
        raise NetworkConfigError(problem)
    for _operation, refusal in netlink.apply(diff(plan.state(), with_flannel_routes(actual, conflicts), prune=False)):
        raise refusal


def require_free(networks: Collection[IPNetwork]) -> None:
    """Raise NetworkConfigError where a route of others conflicts with one for a whole network. Changes nothing."""
    actual, foreign = netlink.read_with_foreign(networks)
    desired = [Route(dst=network, link="") for network in networks]
    for problem in find_conflicts(desired, {}, {}, foreign, {link.name for link in actual.all_of(Link)}).base.values():
        raise NetworkConfigError(problem)


def converge(
    plan: Plan, *, announce: Callable[[Collection[KernelObject], Collection[ForeignRoute]], None] | None = None
) -> ConvergeReport:
    """Make the kernel hold the plan; a second call writes nothing. Raises UnsupportedError, KernelRefused.

    An object that conflicts with a route of others is left out, and is a problem of its peer. `announce` is called
    before anything is written, with all that the kernel is to hold, and the routes of others in the network.
    """
    actual, foreign = netlink.read_with_foreign(plan.networks)
    conflicts = conflicts_of(plan, actual, foreign)
    plan = without_conflicts(plan, conflicts)
    desired = plan.state()
    operations = diff(desired, with_flannel_routes(actual, conflicts))
    if announce is not None:
        announce(desired.objects, foreign)
    failed = netlink.apply(operations)
    problems = list(conflicts.base.values())
    peer_problems = {**conflicts.partly, **plan.problems}
    owners = {item: peer for peer, items in plan.peers.items() for item in items} if failed else {}
    for operation, refusal in failed:
        peer = owners.get(operation.object)
        if peer is None:
            problems.append(str(refusal))
        else:
            peer_problems[peer] = str(refusal)
    return ConvergeReport(
        written=len(operations) - len(failed),
        problems=tuple(problems),
        peer_problems=peer_problems,
        paths=plan.paths,
        unlisted=plan.unlisted,
        refused=len(failed),
        held=desired.objects,
        foreign=foreign,
    )


def conflicts_of(plan: Plan, actual: KernelState, foreign: Iterable[ForeignRoute]) -> RouteConflicts:
    """Which objects of a plan conflict with routes of others. Pure."""
    links = {link.name for link in actual.all_of(Link)}
    return find_conflicts(plan.base, plan.peers, plan.destinations, foreign, links)


def without_conflicts(plan: Plan, conflicts: RouteConflicts) -> Plan:
    """The plan without the objects that conflict with routes of others. Pure."""
    if not conflicts.base and not conflicts.peers:
        return plan
    return replace(
        plan,
        base=tuple(item for item in plan.base if item not in conflicts.base),
        peers={name: objects for name, objects in plan.peers.items() if name not in conflicts.peers},
        problems={**plan.problems, **conflicts.peers},
        paths={name: path for name, path in plan.paths.items() if name not in conflicts.peers},
    )


def with_flannel_routes(actual: KernelState, conflicts: RouteConflicts) -> KernelState:
    """The state with flannel's routes as if they were ours, so that they are changed in place, not added. Pure."""
    if not conflicts.taken:
        return actual
    there = {route.key for route in actual.all_of(Route)}
    return KernelState(
        actual.objects | {replace(route, link="") for route in conflicts.taken if route.key not in there}
    )

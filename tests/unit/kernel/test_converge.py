"""Plans against a model of the kernel: whatever it holds, one convergence makes it as planned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from overlayd.kernel.converge import Plan, conflicts_of, with_flannel_routes, without_conflicts
from overlayd.kernel.diff import Operation, OperationKind, diff
from overlayd.kernel.state import (
    FdbEntry,
    KernelObject,
    KernelState,
    Link,
    Neighbour,
    Route,
    Sysctl,
    VxlanLink,
    WireguardLink,
    WireguardPeer,
)
from overlayd.lib.addresses import IPNetwork, is_within
from tests.unit.kernel.damage import as_seen, damage, foreign_interfaces, foreign_routes, happenings
from tests.unit.kernel.model import Kernel, LinkSet, Refused, holding
from tests.unit.kernel.scenes import UNDERLAY, Peer, Scene, peers, scenes


def wrecked(scene: Scene, choices: Sequence[tuple[int, int]], foreign: Sequence[Route] = ()) -> Kernel:
    """A kernel that held a scene before somebody did things to it."""
    kernel = holding([UNDERLAY, *foreign_interfaces()], scene.state())
    kernel.foreign = {route.key: route for route in foreign if ("r", route.key) not in taken(kernel)}
    for event in damage(kernel, choices):
        kernel.happen(event)
    return kernel


def taken(kernel: Kernel) -> set[tuple[str, object]]:
    return {("r", item.key) for item in kernel.objects.values() if isinstance(item, Route)}


def rebuilt(desired: KernelState, actual: KernelState) -> set[str]:
    """The links that must go first: to be made anew, or because one that is wanted cannot be made beside them."""
    found = set()
    for there in actual.all_of(Link):
        for wanted in desired.all_of(Link):
            if there.name == wanted.name and fixed(there) != fixed(wanted):
                found.add(there.name)
            if there.name != wanted.name and clash(there, wanted):
                found.add(there.name)
    return found


def fixed(link: Link) -> Link:
    """A link less what the kernel changes in place."""
    if isinstance(link, VxlanLink):
        return replace(link, mac="", mtu_bytes=0, up=True)
    if isinstance(link, WireguardLink):
        return replace(link, private_key="", listen_port=0, mtu_bytes=0, up=True)
    return replace(link, mtu_bytes=0, up=True)


def clash(one: Link, other: Link) -> bool:
    """Whether the model would refuse one beside the other."""
    try:
        holding([replace(UNDERLAY, mtu_bytes=65535)], KernelState(frozenset({one}))).apply(
            Operation(OperationKind.ADD, other)
        )
    except Refused:
        return True
    return False


def renamed_macs(desired: KernelState, actual: KernelState) -> set[str]:
    """The links whose MAC changes, at which the kernel forgets neighbours."""
    macs = {link.name: link.mac for link in actual.all_of(VxlanLink)}
    return {link.name for link in desired.all_of(VxlanLink) if macs.get(link.name, link.mac) != link.mac}


def carried_over(desired: KernelState, actual: KernelState) -> set[KernelObject]:
    """What is right already, on links that stay: nothing may happen to it."""
    gone, forgetful = rebuilt(desired, actual), renamed_macs(desired, actual)
    return {
        item
        for item in desired.objects & actual.objects
        if getattr(item, "link", None) not in gone
        and not (isinstance(item, Link) and item.name in gone)
        and not (isinstance(item, Neighbour) and item.link in forgetful)
    }


def steps(kernel: Kernel, operations: Sequence[Operation]) -> Iterator[None]:
    """Carry out operations one by one; Refused says which could not be, and after which others."""
    for number, operation in enumerate(operations):
        try:
            kernel.apply(operation)
        except Refused as refusal:
            raise AssertionError([*map(str, operations[:number]), f"then {refusal}"]) from refusal
        yield


def without_sysctls(state: KernelState) -> set[KernelObject]:
    return {item for item in state.objects if not isinstance(item, Sysctl)}


any_damage = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 2**16)), max_size=6)
any_foreign = st.lists(foreign_routes(), max_size=3)


OTHER_VNI = Scene(options={"VNI": 7, "GBP": True})
TWO_FAMILIES = Scene(kind="wireguard", versions=(4, 6), peers={2: Peer(number=2)})
PORTS_SWAPPED = replace(TWO_FAMILIES, options={"ListenPort": 51821, "ListenPortV6": 51820})


@given(scenes(), scenes(), any_damage, any_foreign)
@example(Scene(), OTHER_VNI, [], [])
@example(TWO_FAMILIES, PORTS_SWAPPED, [], [])
@settings(max_examples=300)
def test_one_pass_leads_from_any_state_to_the_desired_one(
    before: Scene, after: Scene, choices: list[tuple[int, int]], foreign: list[Route]
) -> None:
    kernel, plan = wrecked(before, choices, foreign), after.plan()
    actual, others, interfaces = kernel.ours(), dict(kernel.foreign), dict(kernel.interfaces)
    conflicts = conflicts_of(plan, actual, as_seen(others.values()))
    desired = without_conflicts(plan, conflicts).state()
    operations = diff(desired, with_flannel_routes(actual, conflicts))
    kept = carried_over(desired, actual)
    for _ in steps(kernel, operations):
        assert kept <= kernel.ours().objects, "what was right lost a packet"
    assert not kept & {operation.object for operation in operations}
    assert without_sysctls(kernel.ours()) == without_sysctls(desired)
    assert desired.all_of(Sysctl) <= kernel.ours().all_of(Sysctl)
    assert diff(desired, kernel.ours()) == ()
    # Others keep what is theirs, but for a route by exactly the next hop that a peer's lease names; and what they have
    # is the way to it, or to a part of it, if ours is not there.
    taken = {route.key: route.dst for route in conflicts.taken}
    assert kernel.foreign == {key: route for key, route in others.items() if key not in taken}
    for key, subnet in taken.items():
        assert others[key].via in {to.public_ip for to in plan.destinations[name_at(plan, subnet)]}
    for route in kernel.foreign.values():
        assert not any(is_within(ours.dst, route.dst) for ours in desired.all_of(Route) if ours not in plan.base), route
    assert kernel.interfaces == interfaces


def name_at(plan: Plan, subnet: IPNetwork) -> str:
    """The peer that has a subnet."""
    (found,) = (name for name, ways in plan.destinations.items() for to in ways if to.subnet == subnet)
    return found


@given(scenes(), scenes(), any_damage)
def test_all_is_there_before_anything_goes(before: Scene, after: Scene, choices: list[tuple[int, int]]) -> None:
    desired, actual = after.state(), wrecked(before, choices).ours()
    operations, anew = diff(desired, actual), rebuilt(desired, actual)
    first = [
        op.verb is OperationKind.DELETE and isinstance(op.object, Link) and op.object.name in anew for op in operations
    ]
    head = first.index(False) if False in first else len(first)
    assert not any(first[head:])
    deletes = [op.verb is OperationKind.DELETE for op in operations[head:]]
    assert deletes == sorted(deletes)


@given(scenes(), scenes(), any_damage)
@example(Scene(), OTHER_VNI, [])
def test_without_pruning_nothing_is_deleted_but_what_must_be_rebuilt(
    before: Scene, after: Scene, choices: list[tuple[int, int]]
) -> None:
    kernel, desired = wrecked(before, choices), after.state()
    actual = kernel.ours()
    operations = diff(desired, actual, prune=False)
    for _ in steps(kernel, operations):
        pass
    anew = rebuilt(desired, actual)
    assert {
        op.object.name for op in operations if op.verb is OperationKind.DELETE and isinstance(op.object, Link)
    } == anew
    assert not [op for op in operations if op.verb is OperationKind.DELETE and not isinstance(op.object, Link)]
    assert without_sysctls(desired) <= kernel.ours().objects
    keys = {(type(item), item.key) for item in desired.objects}
    surplus = {
        item
        for item in without_sysctls(actual)
        if (type(item), item.key) not in keys
        and getattr(item, "link", None) not in anew
        and not (isinstance(item, Link) and item.name in anew)
        # The kernel's doing, not an operation of ours.
        and not (isinstance(item, Neighbour) and item.link in renamed_macs(desired, actual))
    }
    left = kernel.ours().objects
    # A WireGuard peer may lose its subnets to the one that is wanted, but is not deleted.
    assert {item for item in surplus if not isinstance(item, WireguardPeer)} <= left
    assert {item.key for item in surplus} <= {item.key for item in left}


@given(scenes(), st.data())
def test_a_peer_that_joins_leaves_or_changes_touches_no_other(scene: Scene, data: st.DataObject) -> None:
    others = data.draw(peers())
    number = data.draw(st.sampled_from([*scene.peers] or [2]))
    changed = {n: peer for n, peer in scene.peers.items() if n != number}
    if number in others:
        changed[number] = others[number]
    after = Scene(**{**vars(scene), "peers": changed})
    plan, operations = scene.plan(), diff(after.state(), scene.state())
    of_the_others = {
        item for name, found in plan.peers.items() if not name_of(scene, number) & {name} for item in found
    }
    assert not of_the_others & {operation.object for operation in operations}
    assert not {operation.object for operation in operations} & set(plan.base)


def name_of(scene: Scene, number: int) -> set[str]:
    """The key name of a peer's lease in a scene."""
    alone = Scene(**{**vars(scene), "peers": {n: peer for n, peer in scene.peers.items() if n == number}}).plan()
    return {*alone.peers, *alone.problems}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Route(dst=IPv4Network("10.5.2.0/24"), link="overlay.1", via=IPv4Address("10.5.2.0"), onlink=True), "down"),
        (Route(dst=IPv4Network("10.5.2.0/24"), link="eth0", via=IPv4Address("198.19.0.1")), "not on link"),
        (Route(dst=IPv4Network("10.5.2.0/24"), link="eth0", via=IPv4Address("198.18.1.1")), "this host"),
        (Neighbour(link="overlay.1", address=IPv4Address("10.5.2.0"), mac="02:00:00:00:00:01"), "no such link"),
        (FdbEntry(link="eth0", mac="02:00:00:00:00:01", dst=IPv4Address("198.18.1.2")), "no such VXLAN"),
    ],
)
def test_the_model_refuses_what_linux_refuses(broken: KernelObject, said: str) -> None:
    kernel = holding([UNDERLAY], KernelState())
    with pytest.raises(Refused, match=said):
        kernel.apply(Operation(OperationKind.ADD, broken))


class Reconciling(RuleBasedStateMachine):
    """Peers come, go and change; somebody breaks things; whenever the daemon has looked, all is as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.kernel = holding([UNDERLAY, *foreign_interfaces()], KernelState())
        self.quiet = False

    @initialize(scene=scenes())
    def begin(self, scene: Scene) -> None:
        self.scene = scene

    @rule(found=peers())
    def peers_join_or_change(self, found: dict[int, Peer]) -> None:
        self.scene = Scene(**{**vars(self.scene), "peers": {**self.scene.peers, **found}})
        self.quiet = False

    @rule(numbers=st.sets(st.integers(2, 7), max_size=3))
    def peers_leave(self, numbers: set[int]) -> None:
        left = {number: peer for number, peer in self.scene.peers.items() if number not in numbers}
        self.scene = Scene(**{**vars(self.scene), "peers": left})
        self.quiet = False

    @rule(scene=scenes())
    def the_network_is_configured_anew(self, scene: Scene) -> None:
        self.scene = scene
        self.quiet = False

    @rule(choice=st.tuples(st.integers(0, 2**16), st.integers(0, 2**16)))
    def somebody_breaks_something(self, choice: tuple[int, int]) -> None:
        for event in happenings(self.kernel, choice):
            self.kernel.happen(event)
        self.quiet = False

    @rule()
    def the_underlay_flaps(self) -> None:
        self.kernel.happen(LinkSet(link=UNDERLAY.name, up=False))
        self.kernel.happen(LinkSet(link=UNDERLAY.name, up=True))
        self.quiet = False

    @rule()
    def the_daemon_looks(self) -> None:
        operations = diff(self.scene.state(), self.kernel.ours())
        assert not (self.quiet and operations)
        for _ in steps(self.kernel, operations):
            pass
        self.quiet = True

    @invariant()
    def all_is_right_when_the_daemon_has_looked(self) -> None:
        if self.quiet:
            assert without_sysctls(self.kernel.ours()) == without_sysctls(self.scene.state())

    @invariant()
    def what_is_not_ours_stays(self) -> None:
        assert self.kernel.interfaces == {one.name: one for one in (UNDERLAY, *foreign_interfaces())}


TestReconciling = Reconciling.TestCase
TestReconciling.settings = settings(max_examples=60, stateful_step_count=20)

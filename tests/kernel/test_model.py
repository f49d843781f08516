"""The unit tests' model of the kernel is compared with the kernel: both must show the same state."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overlayd.kernel import netlink
from overlayd.kernel.converge import conflicts_of, with_flannel_routes, without_conflicts
from overlayd.kernel.diff import Operation, diff
from overlayd.kernel.state import KernelObject, KernelState, Route, Sysctl
from overlayd.lib.addresses import is_within
from tests.kernel.stage import addresses, host
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside
from tests.unit.kernel.damage import as_seen, foreign_interfaces, foreign_routes, happenings
from tests.unit.kernel.model import Event, Kernel, LinkGone, LinkSet, MacSet, holding
from tests.unit.kernel.scenes import KINDS, UNDERLAY, Peer, Scene, scenes


def happen(name: str, event: Event) -> None:
    """Do the same in a namespace and in the model."""
    match event:
        case Operation():
            assert inside(name, lambda: netlink.apply([event])) == []
        case LinkGone(link=link):
            namespaces.ip(name, f"link delete {link}")
        case LinkSet(link=link, up=up):
            namespaces.ip(name, f"link set {link} {'up' if up else 'down'}")
            if up and link == UNDERLAY.name:
                namespaces.ip(name, *addresses())
        case MacSet(link=link, mac=mac):
            namespaces.ip(name, f"link set {link} address {mac}")


def without_sysctls(state: KernelState) -> set[str]:
    """All objects except settings, each with all its fields."""
    return {repr(item) for item in state.objects if not isinstance(item, Sysctl)}


def compare(name: str, model: Kernel, when: str) -> None:
    """Fail, and show what differs."""
    real = without_sysctls(inside(name, netlink.read))
    expected = without_sysctls(model.ours())
    assert (real - expected, expected - real) == (set(), set()), when
    left = namespaces.run(name, ["ip", "route", "show", "proto", "static"])
    assert sorted(" ".join(line.split()) for line in left.splitlines()) == sorted(map(str, model.foreign.values())), (
        when
    )


VXLAN = Scene(versions=(4, 6), peers={2: Peer(number=2), 3: Peer(number=3, near=False)})
FOREIGN = Route(dst=IPv4Network("10.5.2.0/24"), link="eth0", via=IPv4Address("198.18.1.200"))
DIRECT = Scene(versions=(4, 6), kind="host-gw", blackhole=True, peers={2: Peer(number=2), 3: Peer(number=3)})


# Not every kernel has the devices of the other backends.
HERE = tuple(kind for kind in KINDS if kind not in ("ipip", "wireguard"))


@given(
    scenes(HERE),
    scenes(HERE),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 2**16)), max_size=5),
    st.lists(foreign_routes(), max_size=2),
)
# Each kind of change that others can make, one by one, to each kind of device.
@example(VXLAN, VXLAN, [(number, 0) for number in range(13)], [])
@example(VXLAN, DIRECT, [(number, 1) for number in range(13)], [])
@example(DIRECT, VXLAN, [(number, 2) for number in range(4)], [])
@example(Scene(kind="udp"), VXLAN, [(number, 0) for number in range(6)], [FOREIGN])
@example(Scene(), Scene(options={"VNI": 7, "GBP": True}), [], [])
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_the_model_agrees_with_the_kernel(
    before: Scene, after: Scene, choices: list[tuple[int, int]], foreign: list[Route]
) -> None:
    with host() as name:
        model = holding([UNDERLAY, *foreign_interfaces()], KernelState())
        for route in foreign:
            model.foreign[route.key] = route
            namespaces.ip(name, f"route replace {route} proto static")
        bring(name, model, before)
        compare(name, model, "after the first pass")
        for choice in choices:
            for event in happenings(model, choice):
                model.happen(event)
                happen(name, event)
                compare(name, model, f"after {event}")
        bring(name, model, after)
        compare(name, model, "after the second pass")
        state, seen = inside(name, lambda: netlink.read_with_foreign([IPv4Network("10.5.0.0/16")]))
        left = list(model.foreign.values())
        ours = [route for route in left if is_within(route.dst, IPv4Network("10.5.0.0/16"))]
        assert set(as_seen(ours)) == set(seen)
        assert operations(after, state, left) == ()


def bring(name: str, model: Kernel, scene: Scene) -> None:
    """One pass of the reconciler: compute operations from the model, and apply them to the model and to the kernel."""
    planned = operations(scene, model.ours(), list(model.foreign.values()))
    for operation in planned:
        model.apply(operation)
    assert inside(name, lambda: netlink.apply(planned)) == []


def operations(scene: Scene, actual: KernelState, foreign: Sequence[Route] = ()) -> tuple[Operation, ...]:
    """The operations that lead to a scene, without settings and without routes of others."""
    plan = scene.plan()
    conflicts = conflicts_of(plan, actual, as_seen(foreign))
    found = diff(without_conflicts(plan, conflicts).state(), with_flannel_routes(actual, conflicts))
    wanted: list[KernelObject] = [operation.object for operation in found]
    return tuple(op for op, item in zip(found, wanted, strict=True) if not isinstance(item, Sysctl))

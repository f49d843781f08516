"""States in, operations out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from overlayd.kernel.diff import Operation, Verb, diff
from overlayd.kernel.state import (
    FORWARDING,
    Address,
    FdbEntry,
    KernelState,
    Neighbour,
    Route,
    Sysctl,
    TunLink,
    VxlanLink,
    WireguardPeer,
)

LINK = VxlanLink(
    name="overlay.1",
    vni=1,
    port=8472,
    local=IPv4Address("198.18.1.1"),
    underlay="eth0",
    mac="02:00:00:00:00:01",
    mtu_bytes=1450,
)
ADDRESS = Address(link="overlay.1", address=IPv4Interface("10.5.1.0/32"))


def state(*peers: int, link: VxlanLink = LINK) -> KernelState:
    """What a vxlan host holds for peers of these numbers."""
    return KernelState(
        links=frozenset({link}),
        addresses=frozenset({ADDRESS}),
        routes=frozenset(
            Route(dst=IPv4Network(f"10.5.{n}.0/24"), link=link.name, via=IPv4Address(f"10.5.{n}.0"), onlink=True)
            for n in peers
        ),
        neighbours=frozenset(
            Neighbour(link=link.name, address=IPv4Address(f"10.5.{n}.0"), mac=f"02:00:00:00:01:{n:02x}") for n in peers
        ),
        fdb=frozenset(
            FdbEntry(link=link.name, mac=f"02:00:00:00:01:{n:02x}", dst=IPv4Address(f"198.18.1.{n}")) for n in peers
        ),
        sysctls=frozenset({FORWARDING}),
    )


def apply(operations: tuple[Operation, ...], actual: KernelState) -> KernelState:
    """A model of the kernel: a link takes what stands on it along."""
    objects = {
        (type(item), item.key): item
        for group in (
            actual.links,
            actual.addresses,
            actual.routes,
            actual.neighbours,
            actual.fdb,
            actual.wireguard_peers,
            actual.sysctls,
        )
        for item in group
    }
    for operation in operations:
        item = operation.object
        key = (type(item), item.key)
        if operation.verb is Verb.DELETE:
            assert objects.pop(key) == item
            if isinstance(item, VxlanLink | TunLink):
                objects = {k: v for k, v in objects.items() if getattr(v, "link", None) != item.name}
        else:
            assert (key in objects) == (operation.verb is Verb.CHANGE)
            if hasattr(item, "link"):
                assert any(isinstance(t, VxlanLink | TunLink) and t.name == item.link for t in objects.values())
            objects[key] = item
    values = objects.values()
    return KernelState(
        links=frozenset(t for t in values if isinstance(t, VxlanLink | TunLink)),
        addresses=frozenset(t for t in values if isinstance(t, Address)),
        routes=frozenset(t for t in values if isinstance(t, Route)),
        neighbours=frozenset(t for t in values if isinstance(t, Neighbour)),
        fdb=frozenset(t for t in values if isinstance(t, FdbEntry)),
        wireguard_peers=frozenset(t for t in values if isinstance(t, WireguardPeer)),
        sysctls=frozenset(t for t in values if isinstance(t, Sysctl)),
    )


@given(st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)), st.integers(1400, 1402), st.sampled_from([1, 2]))
def test_the_operations_lead_to_the_desired_state_and_then_there_are_none(
    wanted: set[int], found: set[int], mtu_bytes: int, vni: int
) -> None:
    desired = state(*wanted, link=replace(LINK, mtu_bytes=mtu_bytes, vni=vni))
    reached = apply(diff(desired, state(*found)), state(*found))
    assert reached == desired
    assert diff(desired, reached) == ()


def test_everything_comes_before_anything_goes() -> None:
    verbs = [operation.verb for operation in diff(state(2, 3), state(3, 4))]
    assert verbs == [Verb.ADD] * 3 + [Verb.DELETE] * 3


def test_links_come_first_and_routes_last() -> None:
    names = [operation.name for operation in diff(state(2), KernelState())]
    assert names == ["link add", "sysctl add", "address add", "neighbour add", "fdb add", "route add"]


def test_a_peers_new_address_changes_its_entry_in_place() -> None:
    moved = replace(
        state(2), fdb=frozenset({FdbEntry(link="overlay.1", mac="02:00:00:00:01:02", dst=IPv4Address("198.18.1.77"))})
    )
    assert [str(operation) for operation in diff(moved, state(2))] == [
        "fdb change 02:00:00:00:01:02 dev overlay.1 dst 198.18.1.77"
    ]


def test_a_link_with_another_vni_is_made_anew_with_all_that_stood_on_it() -> None:
    names = [operation.name for operation in diff(state(2, link=replace(LINK, vni=7)), state(2))]
    assert names == ["link delete", "link add", "address add", "neighbour add", "fdb add", "route add"]


def test_a_link_that_is_down_is_brought_up_not_made_anew() -> None:
    operations = diff(state(), state(link=replace(LINK, up=False)))
    assert [operation.name for operation in operations] == ["link change"]


def test_without_pruning_nothing_surplus_goes() -> None:
    assert diff(state(), state(2, 3), prune=False) == ()


def test_settings_are_never_set_back() -> None:
    assert diff(KernelState(), KernelState(sysctls=frozenset({FORWARDING}))) == ()

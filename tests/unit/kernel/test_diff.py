"""States in, operations out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from overlayd.kernel.diff import OperationKind, diff
from overlayd.kernel.state import (
    FORWARDING,
    Address,
    FdbEntry,
    KernelObject,
    KernelState,
    Neighbour,
    Route,
    VxlanLink,
)
from tests.unit.kernel.model import holding
from tests.unit.kernel.scenes import UNDERLAY

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
    objects: set[KernelObject] = {link, ADDRESS, FORWARDING}
    for number in peers:
        subnet, mac = IPv4Network(f"10.5.{number}.0/24"), f"02:00:00:00:01:{number:02x}"
        objects |= {
            Route(dst=subnet, link=link.name, via=subnet.network_address, onlink=True),
            Neighbour(link=link.name, address=subnet.network_address, mac=mac),
            FdbEntry(link=link.name, mac=mac, dst=IPv4Address(f"198.18.1.{number}")),
        }
    return KernelState(frozenset(objects))


@given(st.sets(st.integers(2, 9)), st.sets(st.integers(2, 9)), st.integers(1400, 1402), st.sampled_from([1, 2]))
def test_the_operations_lead_to_the_desired_state_and_then_there_are_none(
    wanted: set[int], found: set[int], mtu_bytes: int, vni: int
) -> None:
    desired = state(*wanted, link=replace(LINK, mtu_bytes=mtu_bytes, vni=vni))
    kernel = holding([UNDERLAY], state(*found))
    for operation in diff(desired, kernel.ours()):
        kernel.apply(operation)
    assert kernel.ours() == desired
    assert diff(desired, kernel.ours()) == ()


def test_everything_comes_before_anything_goes() -> None:
    verbs = [operation.verb for operation in diff(state(2, 3), state(3, 4))]
    assert verbs == [OperationKind.ADD] * 3 + [OperationKind.DELETE] * 3


def test_links_come_first_and_routes_last() -> None:
    names = [operation.name for operation in diff(state(2), KernelState())]
    assert names == ["link add", "sysctl add", "address add", "neighbour add", "fdb add", "route add"]


def test_a_peers_new_address_changes_its_entry_in_place() -> None:
    (entry,) = state(2).all_of(FdbEntry)
    moved = KernelState(state(2).objects - {entry} | {replace(entry, dst=IPv4Address("198.18.1.77"))})
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
    assert diff(KernelState(), KernelState(frozenset({FORWARDING}))) == ()


@dataclass(frozen=True, kw_only=True)
class Rule(KernelObject):
    """A kind of object that diff has never heard of."""

    rank: ClassVar[int] = 7
    noun: ClassVar[str] = "rule"

    priority: int
    table: int

    @property
    def key(self) -> int:
        """What a rule is known by."""
        return self.priority

    def __str__(self) -> str:
        return f"{self.priority} table {self.table}"


def test_a_new_kind_of_object_is_one_class() -> None:
    desired, actual = (KernelState(state(2).objects | {Rule(priority=9, table=table)}) for table in (1, 2))
    assert [str(operation) for operation in diff(desired, KernelState())][-2:] == [
        "route add 10.5.2.0/24 via 10.5.2.0 dev overlay.1 onlink",
        "rule add 9 table 1",
    ]
    assert list(map(str, diff(desired, actual))) == ["rule change 9 table 1"]
    assert list(map(str, diff(state(2), actual))) == ["rule delete 9 table 2"]
    assert diff(desired, desired) == ()

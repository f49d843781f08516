"""The operations that turn the kernel's state into the desired one. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from operator import attrgetter
from typing import TypeVar

from overlayd.kernel.state import KernelObject, KernelState, Link, Neighbour, VxlanLink
from overlayd.lib.quick_dataclass import dataclass

K = TypeVar("K", bound=KernelObject)


class OperationKind(Enum):
    """What is done to one object. CHANGE replaces, in place, the object that has the same key."""

    ADD = "add"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True)
class Operation:
    """One change of one object."""

    verb: OperationKind
    object: KernelObject

    @property
    def name(self) -> str:
        """The operation as `ip` would name it: `route add`."""
        return f"{self.object.noun} {self.verb.value}"

    def __str__(self) -> str:
        return f"{self.name} {self.object}"


def diff(desired: KernelState, actual: KernelState, *, prune: bool = True) -> tuple[Operation, ...]:
    """The operations that lead from `actual`, which holds only what is ours, to `desired`, in the order to do them.

    Objects are added and changed in the order of their ranks, links first, before any is deleted in the reverse order.
    Except a link that cannot be changed in place, or that keeps another from being made: it is deleted first, and
    everything on it is made again. Two equal states give no operations. Without `prune` no surplus object is deleted.
    """
    links, links_there = desired.all_of(Link), actual.all_of(Link)
    first = _must_be_rebuilt(links, links_there) | _in_the_way(links, links_there)
    actual = _without_forgotten(links, _without_links(actual, first))
    # Most objects are as they should be: only those that differ are looked at one by one.
    different = desired.objects ^ actual.objects
    missing = different & desired.objects
    surplus = different - missing
    return (
        *(Operation(OperationKind.DELETE, link) for link in _in_order(first)),
        *_additions(missing, surplus),
        *(_deletions(missing, surplus) if prune else ()),
    )


def _additions(missing: Collection[KernelObject], surplus: Iterable[KernelObject]) -> list[Operation]:
    there = {_identity(item): item for item in surplus}
    operations = []
    for item in _in_order(missing):
        found = there.get(_identity(item)) if there else None
        if found is None:
            operations.append(Operation(OperationKind.ADD, item))
        elif not item.satisfied_by(found):
            operations.append(Operation(OperationKind.CHANGE, item))
    return operations


def _deletions(missing: Iterable[KernelObject], surplus: Iterable[KernelObject]) -> list[Operation]:
    """The operations that delete surplus objects. The kernel itself deletes those on a deleted link."""
    changed = {_identity(item) for item in missing}
    gone = [item for item in _in_order(surplus) if item.deletable and _identity(item) not in changed]
    links = [item for item in gone if isinstance(item, Link)]
    names = {link.name for link in links}
    rest = [item for item in reversed(gone) if not isinstance(item, Link) and item.on_link not in names]
    return [Operation(OperationKind.DELETE, item) for item in (*rest, *links)]


def _identity(item: KernelObject) -> tuple[object, ...]:
    """The identity of an object: links of the same name have the same, whatever their kinds."""
    return item.rank, item.key


def _must_be_rebuilt(desired: Iterable[Link], actual: Iterable[Link]) -> frozenset[Link]:
    """The present links that have a desired name, and cannot be changed into the desired link in place."""
    there = {link.name: link for link in actual}
    return frozenset(
        there[link.name] for link in desired if link.name in there and link.fixed != there[link.name].fixed
    )


def _in_the_way(desired: Collection[Link], actual: Iterable[Link]) -> frozenset[Link]:
    """The present links that keep a desired one from being made."""
    return frozenset(link for link in actual if any(link.excludes(other) for other in desired))


def _without_links(state: KernelState, links: frozenset[Link]) -> KernelState:
    """The state without these links and everything on them."""
    if not links:
        return state
    names = {link.name for link in links}
    return state.without([*links, *(item for item in state.objects if item.on_link in names)])


def _without_forgotten(desired: Iterable[Link], actual: KernelState) -> KernelState:
    """The state without the neighbours that the kernel forgets, also permanent ones, when a link gets another MAC."""
    macs = {link.name: link.mac for link in desired if isinstance(link, VxlanLink)}
    # A link that is not desired any more is deleted, with everything on it.
    changed = {link.name for link in actual.all_of(VxlanLink) if macs.get(link.name, link.mac) != link.mac}
    if not changed:
        return actual
    return actual.without(one for one in actual.all_of(Neighbour) if one.link in changed)


def _in_order(objects: Iterable[K]) -> list[K]:
    # Two stable sorts are faster than one by pairs.
    return sorted(sorted(objects, key=str), key=attrgetter("rank"))

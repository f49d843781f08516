"""What has to be done so that the kernel holds what it should. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from overlayd.kernel.state import (
    Address,
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

T = TypeVar("T", bound=KernelObject)

_NOUNS: dict[type[KernelObject], str] = {
    Address: "address",
    Route: "route",
    Neighbour: "neighbour",
    FdbEntry: "fdb",
    WireguardPeer: "peer",
    Sysctl: "sysctl",
}


class Verb(Enum):
    """What is done to one object. CHANGE replaces what is there under the same key, in place."""

    ADD = "add"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True)
class Operation:
    """One change of one object."""

    verb: Verb
    object: KernelObject

    @property
    def name(self) -> str:
        """The operation as `ip` would name it: `route add`."""
        return f"{_NOUNS.get(type(self.object), 'link')} {self.verb.value}"

    def __str__(self) -> str:
        return f"{self.name} {self.object}"


def diff(desired: KernelState, actual: KernelState, *, prune: bool = True) -> tuple[Operation, ...]:
    """The operations that lead from `actual`, which holds only what is ours, to `desired`, in the order to do them.

    Links come before what stands on them, and all that is added or changed before anything that is deleted; but a link
    that cannot be changed in place, or that keeps another from being made, is deleted first, with all that stood on it.
    Two equal states give no operations. Without `prune` nothing that is merely surplus is deleted.
    """
    first = _must_be_rebuilt(desired.links, actual.links) | _in_the_way(desired.links, actual.links)
    actual = _as_remembered(desired.links, _without(actual, first))
    made: list[Operation] = []
    gone: list[Operation] = []
    for wanted, found in (
        (desired.links, actual.links),
        (desired.sysctls, actual.sysctls),
        (desired.addresses, actual.addresses),
        (desired.neighbours, actual.neighbours),
        (desired.fdb, actual.fdb),
        (desired.wireguard_peers, actual.wireguard_peers),
        (desired.routes, actual.routes),
    ):
        made.extend(_make(wanted, found))
        if prune:
            gone.extend(_unmake(wanted, found))
    removals = [Operation(Verb.DELETE, link) for link in _sorted(first)]
    return (*removals, *made, *_with_links_last(gone))


def _make(wanted: Iterable[KernelObject], found: Iterable[KernelObject]) -> list[Operation]:
    there = {item.key: item for item in found}
    made = []
    # What is there as it should be is most of it.
    for item in _sorted(item for item in wanted if there.get(item.key) != item):
        if item.key not in there:
            made.append(Operation(Verb.ADD, item))
        elif _settled(item, there[item.key]) != item:
            made.append(Operation(Verb.CHANGE, item))
    return made


def _settled(wanted: KernelObject, found: KernelObject) -> KernelObject:
    """What was found, less what it may differ in."""
    if isinstance(wanted, WireguardPeer) and isinstance(found, WireguardPeer) and wanted.roams and found.endpoint:
        return replace(found, endpoint=wanted.endpoint)
    return found


def _unmake(wanted: Iterable[KernelObject], found: Iterable[KernelObject]) -> list[Operation]:
    keys: set[Hashable] = {item.key for item in wanted}
    return [
        Operation(Verb.DELETE, item)
        for item in _sorted(item for item in found if item.key not in keys)
        if not isinstance(item, Sysctl)
    ]


def _with_links_last(operations: list[Operation]) -> list[Operation]:
    """The kernel deletes by itself what stands on a deleted link: only the rest needs an operation of its own."""
    links = {operation.object.name for operation in operations if isinstance(operation.object, Link)}
    rest = [operation for operation in reversed(operations) if not isinstance(operation.object, Link)]
    return [
        *(operation for operation in rest if getattr(operation.object, "link", None) not in links),
        *(operation for operation in operations if isinstance(operation.object, Link)),
    ]


def _must_be_rebuilt(wanted: Iterable[Link], found: Iterable[Link]) -> frozenset[Link]:
    there = {link.name: link for link in found}
    return frozenset(
        there[link.name] for link in wanted if link.name in there and _fixed(link) != _fixed(there[link.name])
    )


def _in_the_way(wanted: frozenset[Link], found: frozenset[Link]) -> frozenset[Link]:
    """The links that are there and beside which one that is wanted cannot be."""
    return frozenset(link for link in found if any(_clash(link, other) for other in wanted))


def _clash(there: Link, wanted: Link) -> bool:
    """VXLAN links with one port share a socket a family, and all its flags (VXLAN_F_RCV_FLAGS); a VNI is there once.

    A WireGuard link shares its port with nobody.
    """
    if there.name == wanted.name:
        return False
    if isinstance(there, VxlanLink) and isinstance(wanted, VxlanLink):
        same_socket = (there.port, there.local.version) == (wanted.port, wanted.local.version)
        return same_socket and (there.vni == wanted.vni or there.gbp != wanted.gbp)
    if isinstance(there, WireguardLink) and isinstance(wanted, WireguardLink):
        return there.listen_port == wanted.listen_port
    return False


def _fixed(link: Link) -> Link:
    """The link with all that can be changed in place blanked out."""
    if isinstance(link, VxlanLink):
        return replace(link, mtu_bytes=0, up=True, mac="")
    if isinstance(link, WireguardLink):
        return replace(link, mtu_bytes=0, up=True, private_key="", listen_port=0)
    return replace(link, mtu_bytes=0, up=True)


def _without(state: KernelState, links: frozenset[Link]) -> KernelState:
    if not links:
        return state
    names = {link.name for link in links}
    return KernelState(
        links=state.links - links,
        addresses=frozenset(address for address in state.addresses if address.link not in names),
        routes=frozenset(route for route in state.routes if route.link not in names),
        neighbours=frozenset(neighbour for neighbour in state.neighbours if neighbour.link not in names),
        fdb=frozenset(entry for entry in state.fdb if entry.link not in names),
        wireguard_peers=frozenset(peer for peer in state.wireguard_peers if peer.link not in names),
        sysctls=frozenset(sysctl for sysctl in state.sysctls if sysctl.link not in names),
    )


def _as_remembered(wanted: Iterable[Link], actual: KernelState) -> KernelState:
    """The state less the neighbours that the kernel forgets, permanent ones too, when their link gets another MAC."""
    macs = {link.name: link.mac for link in wanted if isinstance(link, VxlanLink)}
    names = {link.name for link in actual.links if isinstance(link, VxlanLink) and macs.get(link.name) != link.mac}
    # A link that is not wanted any more goes, with all that stands on it.
    forgetful = names & macs.keys()
    return replace(actual, neighbours=frozenset(one for one in actual.neighbours if one.link not in forgetful))


def _sorted(objects: Iterable[T]) -> list[T]:
    return sorted(objects, key=str)

"""What the kernel is expected to hold of ours: so that messages that only confirm it are told from news.

The kernel reports what we write ourselves, too (rtnetlink(7)). After each of these messages everything would be read
again, and with thousands of peers that takes half a second.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from enum import IntEnum
from itertools import chain

from overlayd.kernel import routes
from overlayd.kernel.links import (
    AF_BRIDGE,
    NDA_DST,
    NDA_LLADDR,
    NEIGHBOUR,
    NUD_PERMANENT,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    address_of,
    index_of,
)
from overlayd.kernel.messages import attributes
from overlayd.kernel.routes import RTM_DELROUTE, RTM_NEWROUTE
from overlayd.kernel.state import FdbEntry, KernelObject, Link, Neighbour
from overlayd.lib import marks

_Key = tuple[int, Hashable]


class Verdict(IntEnum):
    """What a message is about: nothing that matters here; something beside what is expected; something expected that
    went and only has to be written again; or anything else, after which all has to be read again."""

    NOISE = 0
    ELSEWHERE = 1
    LOST = 2
    NEWS = 3


class Expected:
    """Objects of ours, and the links that they are on. One thread changes them, another asks."""

    def __init__(self) -> None:
        """Nothing is expected."""
        self._lost: deque[_Key] = deque()
        self.forget()

    def forget(self) -> None:
        """Expect nothing: all is news."""
        # By rank and key, one table for each rank: a pair for each object would take a tenth of what a peer takes.
        self._objects: dict[int, dict[Hashable, KernelObject]] = {}
        self._links: Mapping[int, str] | None = None
        self._lost.clear()

    def replace(self, objects: Iterable[KernelObject], *, beside: Iterable[str] = ()) -> None:
        """Expect these alone. Links in `beside` matter too: routes of others that lead there are in the way of ours.

        Before they are written, and what is too many deleted: the kernel reports that at once.
        """
        self.forget()
        self.add(objects)
        links: dict[int, str] = {}
        for name in {item.name if isinstance(item, Link) else item.on_link for item in self._all()} - {None}:
            try:
                links[socket.if_nametoindex(str(name))] = str(name)
            except OSError:
                # It has gone meanwhile, or is to be made: all stays news.
                return
        for name in beside:
            with contextlib.suppress(OSError):
                links[socket.if_nametoindex(name)] = name
        self._links = links

    def add(self, objects: Iterable[KernelObject]) -> None:
        """Expect these too. Before they are written."""
        for item in objects:
            self._objects.setdefault(item.rank, {})[item.key] = item

    def remove(self, objects: Iterable[KernelObject]) -> None:
        """Expect these no more. Before they are deleted."""
        for item in objects:
            self._objects.get(item.rank, {}).pop(item.key, None)

    def has(self, item: KernelObject) -> bool:
        """Whether an object is expected that the kernel cannot hold together with this one, or this one itself."""
        return item.key in self._objects.get(item.rank, {})

    def take_lost(self) -> list[KernelObject]:
        """What was lost since this was last asked for, and is still expected: each once, to be written again."""
        found: dict[_Key, KernelObject] = {}
        while self._lost:
            rank, key = self._lost.popleft()
            item = self._objects.get(rank, {}).get(key)
            if item is not None:
                found[rank, key] = item
        return list(found.values())

    def judge(self, kind: int, message: bytes) -> Verdict:
        """What a message of rtnetlink, without its header, is about."""
        links = self._links
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            return self._judge_neighbour(links, kind, message)
        if links is None:
            return Verdict.NEWS
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            # A link that goes down takes routes with it, of which nothing is reported.
            return Verdict.NEWS if index_of(message) in links else Verdict.ELSEWHERE
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            if not routes.is_of_main(message):
                return Verdict.ELSEWHERE
            route = routes.parse_ours(message, links)
            return Verdict.NEWS if route is None else self._judge(route, comes=kind == RTM_NEWROUTE)
        return Verdict.NEWS

    def _judge(self, item: KernelObject, *, comes: bool) -> Verdict:
        """What it means that an object with our mark came, or went."""
        expected = self._objects.get(item.rank, {}).get(item.key)
        if comes:
            return Verdict.NOISE if item == expected else Verdict.NEWS
        if expected is None:
            # We deleted it ourselves, or it had been news when it came.
            return Verdict.NOISE
        if item != expected and not isinstance(item, Neighbour):
            return Verdict.NEWS
        self._lost.append(key_of(item))
        return Verdict.LOST

    def _judge_neighbour(self, links: Mapping[int, str] | None, kind: int, message: bytes) -> Verdict:
        if len(message) < NEIGHBOUR.size:
            return Verdict.NEWS
        family, index, state, *_rest = NEIGHBOUR.unpack_from(message)
        # Neighbours that the kernel learns and forgets by itself do not count: on a busy host that is every second.
        permanent = bool(state & NUD_PERMANENT)
        if links is None:
            return Verdict.NEWS if permanent or _is_own(index) else Verdict.NOISE
        item = _neighbour(family, links[index], attributes(message, NEIGHBOUR.size)) if index in links else None
        if item is None:
            # It is on another link; or a forwarding entry that leads nowhere, which is none of ours.
            return Verdict.NOISE if family == AF_BRIDGE or index not in links else Verdict.NEWS
        if permanent or kind == RTM_DELNEIGH:
            return self._judge(item, comes=kind == RTM_NEWNEIGH)
        return self._judge_changed(item)

    def _judge_changed(self, item: Neighbour | FdbEntry) -> Verdict:
        """What it means that an entry is not permanent, or not any more."""
        if not self.has(item):
            return Verdict.NOISE
        if isinstance(item, FdbEntry):
            return Verdict.NEWS
        # A neighbour that somebody deletes is first told of as one that is there, in another state and without a MAC.
        self._lost.append(key_of(item))
        return Verdict.LOST

    def _all(self) -> Iterator[KernelObject]:
        return chain.from_iterable(of_rank.values() for of_rank in self._objects.values())


def key_of(item: KernelObject) -> _Key:
    """What no two objects in the kernel have in common."""
    return item.rank, item.key


def _neighbour(family: int, link: str, found: Mapping[int, bytes]) -> Neighbour | FdbEntry | None:
    """What a message is about; of a neighbour that goes, the kernel tells no link address."""
    address, mac = found.get(NDA_DST), found.get(NDA_LLADDR, b"").hex(":")
    if address is None or (family == AF_BRIDGE and not mac):
        return None
    if family == AF_BRIDGE:
        return FdbEntry(link=link, mac=mac, dst=address_of(address))
    return Neighbour(link=link, address=address_of(address), mac=mac)


def _is_own(index: int) -> bool:
    """Whether a link has a name of ours. Of one that has gone there was another message."""
    try:
        return marks.ours().names(socket.if_indextoname(index))
    except OSError:
        return False

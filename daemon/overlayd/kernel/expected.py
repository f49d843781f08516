"""What the kernel is expected to hold of ours: so that messages that only confirm it are told from news.

The kernel reports what we write ourselves, too (rtnetlink(7)). After each of these messages everything would be read
again, and with thousands of peers that takes half a second.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Hashable, Iterable, Mapping
from enum import IntEnum

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


class Verdict(IntEnum):
    """What a message is about: nothing that matters here; something beside what is expected; or that itself."""

    NOISE = 0
    ELSEWHERE = 1
    NEWS = 2


class Expected:
    """Objects of ours, and the links that they are on. One thread changes them, another asks."""

    def __init__(self) -> None:
        """Nothing is expected."""
        self.forget()

    def forget(self) -> None:
        """Expect nothing: all is news."""
        self._objects: set[KernelObject] = set()
        self._keys: set[Hashable] = set()
        self._links: Mapping[int, str] | None = None

    def replace(self, objects: Iterable[KernelObject], *, beside: Iterable[str] = ()) -> None:
        """Expect these alone. Links in `beside` matter too: routes of others that lead there are in the way of ours."""
        self.forget()
        self.add(objects)
        links: dict[int, str] = {}
        for name in {item.name if isinstance(item, Link) else item.on_link for item in self._objects} - {None}:
            try:
                links[socket.if_nametoindex(str(name))] = str(name)
            except OSError:
                # It has gone meanwhile: all stays news.
                return
        for name in beside:
            with contextlib.suppress(OSError):
                links[socket.if_nametoindex(name)] = name
        self._links = links

    def add(self, objects: Iterable[KernelObject]) -> None:
        """Expect these too. Before they are written: the kernel reports them at once."""
        for item in objects:
            self._objects.add(item)
            if isinstance(item, Neighbour | FdbEntry):
                self._keys.add((type(item), item.key))

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
            confirms = kind == RTM_NEWROUTE and routes.parse_ours(message, links) in self._objects
            return Verdict.NOISE if confirms else Verdict.NEWS
        return Verdict.NEWS

    def _judge_neighbour(self, links: Mapping[int, str] | None, kind: int, message: bytes) -> Verdict:
        if len(message) < NEIGHBOUR.size:
            return Verdict.NEWS
        family, index, state, *_rest = NEIGHBOUR.unpack_from(message)
        # Neighbours that the kernel learns and forgets by itself do not count: on a busy host that is every second.
        permanent = bool(state & NUD_PERMANENT)
        if links is None:
            return Verdict.NEWS if permanent or _is_own(index) else Verdict.NOISE
        link, found = links.get(index), attributes(message, NEIGHBOUR.size)
        if link is None:
            return Verdict.NOISE
        item = _neighbour(family, link, found)
        if item is None:
            # Forwarding entries that lead nowhere are none of ours.
            return Verdict.NOISE if family == AF_BRIDGE else Verdict.NEWS
        if permanent and kind == RTM_NEWNEIGH and item in self._objects:
            return Verdict.NOISE
        return Verdict.NEWS if permanent or (type(item), item.key) in self._keys else Verdict.NOISE


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

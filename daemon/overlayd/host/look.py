"""The last whole look at what a backend has in the kernel.

As long as the kernel tells of no change, another look would find the same. What new peers need is added to it, what
those that have gone needed is taken away, and what the kernel lost is written again: so that it takes the same time
with two peers as with thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import replace
from operator import attrgetter

from overlayd.backends.peers import PEERS_AT_MOST, Together
from overlayd.backends.planned import Planned
from overlayd.host.parts import DesiredHost, HostContext
from overlayd.kernel import netlink
from overlayd.kernel.converge import ConvergeReport, conflicts_of, converge
from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.expected import Expected, key_of
from overlayd.kernel.foreign import ForeignRoute, RouteConflicts
from overlayd.kernel.state import KernelObject, KernelState, Link, Sysctl
from overlayd.leases.lease import Lease
from overlayd.lib.counters import counter

WHOLE_LOOKS = counter(
    "overlayd_whole_looks_total", "Looks at all that this host has in the kernel, and not only at what was told of."
)
# All is read this often also when the kernel has told of no change.
WHOLE_LOOK_S = 300.0


def look_at_all(context: HostContext, desired: DesiredHost) -> ConvergeReport:
    """Read the whole kernel, and write what differs; from then on that is what it is expected to tell of.

    Raises UnsupportedError, KernelRefused.
    """
    backend, expected = context.backend, context.watch.expected
    # Before the kernel is read: all that changes meanwhile is news.
    expected.forget()
    WHOLE_LOOKS.add()
    if not backend.facts.notified or not isinstance(backend, Planned):
        return backend.apply(desired.lease, desired.peers)
    return converge(
        backend.plan(desired.lease, desired.peers), announce=lambda held, foreign: _expect(expected, held, foreign)
    )


def _expect(expected: Expected, held: Collection[KernelObject], foreign: Collection[ForeignRoute]) -> None:
    expected.replace(held, beside=(route.link for route in foreign if route.link))


class Look:
    """A look at the kernel after which it held all that was planned. For one thread."""

    def __init__(
        self,
        context: HostContext,
        desired: DesiredHost,
        report: ConvergeReport,
        *,
        changes: int,
        clock: Callable[[], float],
    ) -> None:
        """`changes` is what the watch said before it began; the report is of `look_at_all`, with nothing refused."""
        self._context = context
        self._clock = clock
        self._needed = tuple(context.here.needed)
        self._changes = changes
        self._at = clock()
        self._settings = [item for item in report.held if isinstance(item, Sysctl)]
        self._links = KernelState(frozenset(item for item in report.held if isinstance(item, Link)))
        self._together: Together | None = None
        # What the backend says that no two peers may have, beside what the kernel holds once.
        self._claims: set[Hashable] = set()
        self._by_name = {peer.key_name: peer for peer in desired.peers}
        self.desired = desired
        # With thousands of peers, all that is held is not kept twice.
        self.report = replace(report, held=frozenset())

    def holds(self) -> bool:
        """Whether the kernel has told of no change since, and this host needs the same for itself."""
        return (
            self._changes == self._context.watch.changes()
            and self._needed == tuple(self._context.here.needed)
            and self._clock() - self._at < WHOLE_LOOK_S
            and netlink.settings_hold(self._settings)
        )

    def update(self, desired: DesiredHost) -> ConvergeReport | None:
        """Write what the kernel lost, what new peers need, and delete what those that have gone needed.

        The report of that, or None where anything else is different too, or conflicts: then the whole has to be looked
        at, also where a part was written.
        """
        lost = self._context.watch.expected.take_lost()
        if lost and not _written(OperationKind.ADD, lost):
            return None
        if desired is self.desired or desired == self.desired:
            self.report = replace(self.report, written=len(lost))
            return self.report
        changed = self._changed(desired)
        written = None if changed is None else self._exchange(*changed)
        if changed is None or written is None:
            return None
        came, gone, (count, paths) = {peer.key_name: peer for peer in changed[0]}, changed[1], written
        names = {peer.key_name for peer in gone}
        self._by_name = {**{name: peer for name, peer in self._by_name.items() if name not in names}, **came}
        self.desired = desired
        paths = {**{name: path for name, path in self.report.paths.items() if name not in names}, **paths}
        self.report = replace(self.report, written=len(lost) + count, paths=paths)
        return self.report

    def _exchange(self, came: Collection[Lease], gone: Collection[Lease]) -> tuple[int, Mapping[str, str]] | None:
        """Write what those need that have come, and delete what those had that have gone.

        How many objects that were, and the paths of those that came; None where they conflict with anything.
        """
        backend, expected = self._context.backend, self._context.watch.expected
        if not isinstance(backend, Planned):
            return None
        removed = self._take_leave(gone, backend)
        welcomed = self._welcome(came, backend) if removed is not None else None
        if removed is None or welcomed is None:
            return None
        added, paths = welcomed
        # Nothing is added in the place of what is deleted afterwards.
        if any(map(expected.has, added)):
            return None
        expected.remove(removed)
        expected.add(added)
        whole = _written(OperationKind.ADD, added) and _written(OperationKind.DELETE, removed)
        return (len(added) + len(removed), paths) if whole else None

    def _changed(self, desired: DesiredHost) -> tuple[list[Lease], list[Lease]] | None:
        """The peers that have come, and those that have gone, if nothing else has changed."""
        before, known = self.desired, self._by_name
        if desired.lease != before.lease or len(desired.peers) > PEERS_AT_MOST:
            return None
        came = [peer for peer in desired.peers if known.get(peer.key_name) is not peer]
        gone: list[Lease] = []
        if len(desired.peers) != len(known) + len(came):
            names = {peer.key_name for peer in desired.peers}
            gone = [peer for name, peer in known.items() if name not in names]
        if any(peer.key_name in known for peer in came):
            return None
        left = {peer.key_name for peer in gone}
        return (came, gone) if all(one in desired.reserved or one in left for one in before.reserved) else None

    def _take_leave(self, gone: Collection[Lease], backend: Planned) -> list[KernelObject] | None:
        """What those that have gone had in the kernel, where that makes no difference to those that stay."""
        if not gone:
            return []
        # What is refused may be served once another is gone.
        if self.report.peer_problems or self.report.unlisted:
            return None
        together = self._served_together(backend)
        for peer in gone:
            if not together.remove(peer):
                return None
            self._claims.difference_update(backend.claims(peer))
        plan = backend.plan(self.desired.lease, gone)
        if len(plan.peers) < len(gone):
            return None
        objects = [item for items in plan.peers.values() for item in items]
        return sorted(objects, key=attrgetter("rank"), reverse=True)

    def _welcome(
        self, newcomers: Collection[Lease], backend: Planned
    ) -> tuple[list[KernelObject], dict[str, str]] | None:
        """What new peers need in the kernel, and their paths, where they can be served together with the others."""
        if not newcomers:
            return [], {}
        together = self._served_together(backend)
        for peer in newcomers:
            if together.refusal(peer) is not None:
                return None
            together.add(peer)
        plan = backend.plan(self.desired.lease, newcomers)
        if plan.problems or conflicts_of(plan, self._links, self.report.foreign) != RouteConflicts():
            return None
        objects = [item for items in plan.peers.values() for item in items]
        claims = [claim for peer in newcomers for claim in backend.claims(peer)]
        if len(set(map(key_of, objects))) < len(objects) or len(set(claims)) < len(claims):
            return None
        if not self._claims.isdisjoint(claims):
            return None
        self._claims.update(claims)
        return sorted(objects, key=attrgetter("rank")), dict(plan.paths)

    def _served_together(self, backend: Planned) -> Together:
        if self._together is None:
            self._together = Together(self._context.config)
            for peer in self.desired.peers:
                if peer.key_name in self.report.paths:
                    self._together.add(peer)
                    self._claims.update(backend.claims(peer))
        return self._together


def _written(verb: OperationKind, objects: Iterable[KernelObject]) -> bool:
    """Whether the kernel refused none of these."""
    return not netlink.apply([Operation(verb, item) for item in objects])

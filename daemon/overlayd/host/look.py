"""The last whole look at what a backend has in the kernel.

As long as the kernel tells of no change, another look would find the same; and what new peers need is added to it, so
that it takes the same time with two peers as with thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import replace
from operator import attrgetter

from overlayd.backends.peers import PEERS_AT_MOST, Together
from overlayd.backends.planned import Planned
from overlayd.host.parts import DesiredHost, HostContext
from overlayd.kernel import netlink
from overlayd.kernel.converge import ConvergeReport, conflicts_of
from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.foreign import RouteConflicts
from overlayd.kernel.state import KernelObject, KernelState, Link, Sysctl
from overlayd.leases.lease import Lease

# All is read this often also when the kernel has told of no change.
WHOLE_LOOK_S = 300.0


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
        """`changes` is what the watch said before it began; the report is of backend.apply, with nothing refused."""
        self._context = context
        self._clock = clock
        self._needed = tuple(context.here.needed)
        self._changes = changes
        self._at = clock()
        self._settings = [item for item in report.held if isinstance(item, Sysctl)]
        self._links = KernelState(frozenset(item for item in report.held if isinstance(item, Link)))
        self._together: Together | None = None
        # What no two peers may have: objects by what identifies them in the kernel, and what the backend says.
        self._claims: set[Hashable] = set()
        self._by_name = {peer.key_name: peer for peer in desired.peers}
        self.desired = desired
        self.report = report
        context.watch.expected.replace(report.held, beside=(route.link for route in report.foreign if route.link))

    def holds(self) -> bool:
        """Whether the kernel has told of no change since, and this host needs the same for itself."""
        return (
            self._changes == self._context.watch.changes()
            and self._needed == tuple(self._context.here.needed)
            and self._clock() - self._at < WHOLE_LOOK_S
            and netlink.settings_hold(self._settings)
        )

    def add(self, desired: DesiredHost) -> ConvergeReport | None:
        """Write what new peers need, where all else is as it was and they conflict with nothing; else None.

        Then the whole has to be looked at, also where a part was written.
        """
        newcomers, backend = self._newcomers(desired), self._context.backend
        if not newcomers or not isinstance(backend, Planned) or not self._go_together(newcomers, backend):
            return None
        plan = backend.plan(desired.lease, newcomers)
        if plan.problems or conflicts_of(plan, self._links, self.report.foreign) != RouteConflicts():
            return None
        objects = [item for items in plan.peers.values() for item in items]
        claims = [*_identities(objects), *(claim for peer in newcomers for claim in backend.claims(peer))]
        if len(set(claims)) < len(claims) or not self._claims.isdisjoint(claims):
            return None
        self._context.watch.expected.add(objects)
        operations = [Operation(OperationKind.ADD, item) for item in sorted(objects, key=attrgetter("rank"))]
        if netlink.apply(operations):
            return None
        self._claims.update(claims)
        self._by_name |= {peer.key_name: peer for peer in newcomers}
        self.desired = desired
        self.report = replace(self.report, written=len(operations), paths={**self.report.paths, **plan.paths})
        return self.report

    def _newcomers(self, desired: DesiredHost) -> Collection[Lease] | None:
        """The peers that have come, if nothing else has changed."""
        before, known = self.desired, self._by_name
        if desired.lease != before.lease or not before.reserved <= desired.reserved:
            return None
        found = [peer for peer in desired.peers if known.get(peer.key_name) is not peer]
        came = len(desired.peers) == len(known) + len(found) <= PEERS_AT_MOST
        return found if came and not any(peer.key_name in known for peer in found) else None

    def _go_together(self, newcomers: Collection[Lease], backend: Planned) -> bool:
        """Whether these can be served together with those of the look."""
        if self._together is None:
            self._together = Together(self._context.config)
            self._claims.update(_identities(self.report.held))
            for peer in self.desired.peers:
                if peer.key_name in self.report.paths:
                    self._together.add(peer)
                    self._claims.update(backend.claims(peer))
        for peer in newcomers:
            if self._together.refusal(peer) is not None:
                return False
            self._together.add(peer)
        return True


def _identities(objects: Iterable[KernelObject]) -> list[Hashable]:
    return [(item.rank, item.key) for item in objects]

"""The data path: what the backend has in the kernel, and the thread that carries packets where the kernel does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import ClassVar

from overlayd import backends
from overlayd.backends.peers import PROBLEMS_AT_MOST
from overlayd.backends.planned import Planned
from overlayd.errors import OverlaydError, UnsupportedError
from overlayd.host.look import Look, look_at_all
from overlayd.host.parts import DesiredHost, HostContext, PartReport
from overlayd.kernel.converge import ConvergeReport
from overlayd.leases.lease import DEFAULT_BACKEND, Lease
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.log import logger
from overlayd.monitoring.state import Peer

log = logger("host")


class DataPath:
    """The data path of one backend: opened once, then synced, then closed."""

    name: ClassVar[str] = "data path"

    def __init__(self, context: HostContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Changes nothing yet. `clock` is in seconds."""
        self._context = context
        self._clock = clock
        self._look: Look | None = None
        self._told = PartReport()
        # The peers in the status, with their leases, by the names of these.
        self._peers: dict[str, tuple[Lease, Peer]] = {}
        self._stop = threading.Event()
        self._carrier: threading.Thread | None = None
        self._carrier_problem: str | None = None
        self.served: tuple[Lease, ...] = ()
        """The peers that the backend serves, as of the last sync in which it did not fail as a whole."""
        self.served_from: frozenset[IPAddress] = frozenset()
        """The addresses that these send from."""
        self.served_subnets: frozenset[IPNetwork] = frozenset()
        """Their subnets."""
        self.paths: Mapping[str, str] = {}
        """How each of them is reached, in a word, by the names of their leases."""

    def open(self, lease: Lease, *, on_failure: Callable[[], None]) -> None:
        """Open the backend and carry packets; `on_failure` is called by another thread when that ends by itself."""
        self._context.backend.open(lease)
        self._carrier = threading.Thread(target=self._carry, args=(on_failure,), name="data-path", daemon=True)
        self._carrier.start()

    def close(self) -> None:
        """Stop carrying packets in this process; what is in the kernel stays."""
        self._stop.set()
        if self._carrier is not None:
            self._carrier.join()
            self._context.backend.close()

    def planned(self, desired: DesiredHost) -> list[Lease]:
        """The peers that will be served, where that follows from their leases alone."""
        if not isinstance(self._context.backend, Planned):
            return []
        paths = self._context.backend.plan(desired.lease, desired.peers).paths
        return [peer for peer in desired.peers if peer.key_name in paths]

    def sync(self, desired: DesiredHost) -> PartReport:
        """Make the kernel hold what the leases say, and nothing stale of ours. A peer that fails is no problem here."""
        look, self._look = self._look, None
        if look is not None and self._carrier_problem is None and look.holds():
            before = look.desired
            report = look.update(desired)
            if report is not None:
                self._look = look
                if look.desired is before:
                    return replace(self._told, changed=bool(report.written))
                return self._tell(desired, report, ())
        changes = self._context.watch.changes()
        problems = [self._carrier_problem] if self._carrier_problem else []
        try:
            report = look_at_all(self._context, desired)
        except UnsupportedError:
            raise
        except OverlaydError as error:
            return self._tell(desired, None, (*problems, error.message))
        if self._context.backend.facts.notified and not report.problems and not report.refused:
            self._look = Look(self._context, desired, report, changes=changes, clock=self._clock)
        else:
            self._context.watch.expected.forget()
        return self._tell(desired, report, (*problems, *report.problems))

    def _tell(self, desired: DesiredHost, report: ConvergeReport | None, problems: tuple[str, ...]) -> PartReport:
        """The report of this part; `report` is None where the backend failed as a whole."""
        if report is not None:
            self.paths = report.paths
            self._serve(tuple(peer for peer in desired.peers if peer.key_name in report.paths))
        report = report or ConvergeReport()
        shown = self._shown(desired.peers, report)
        told, self._peers = self._peers, {}
        for peer in sorted(shown, key=_by_subnet):
            self._peers[peer.key_name] = self._peer(peer, report, desired.reserved, told.get(peer.key_name))
        found = PartReport(
            problems=problems,
            changed=bool(report.written),
            status={
                "backend": self._context.config.backend_type,
                "mtu_bytes": self._context.backend.mtu_bytes,
                "forwarder": report.forwarder,
                "peers": tuple(one for _lease, one in self._peers.values()),
                "peers_untold": len(desired.peers) - len(shown),
            },
        )
        self._told = replace(found, changed=False)
        return found

    def _carry(self, on_failure: Callable[[], None]) -> None:
        try:
            self._context.backend.run(self._stop)
        except OverlaydError as error:
            log.error("the data path ended", backend=self._context.config.backend_type, problem=error.message)
            self._carrier_problem = f"the data path ended: {error.message}"
            on_failure()

    @staticmethod
    def _shown(peers: tuple[Lease, ...], report: ConvergeReport) -> Collection[Lease]:
        """The peers that the status shows: those that the backend reported on, else the first of all."""
        if not report.paths and not report.peer_problems:
            return peers[:PROBLEMS_AT_MOST]
        return [peer for peer in peers if peer.key_name in report.paths or peer.key_name in report.peer_problems]

    def _serve(self, served: tuple[Lease, ...]) -> None:
        """Note who is served. The sets are changed where few are others: to hash thousands of addresses takes long."""
        before = set(map(id, self.served))
        came = [peer for peer in served if id(peer) not in before]
        if len(self.served) + len(came) == len(served):
            self.served_from |= public_addresses(came)
            self.served_subnets |= subnets_of(came)
        else:
            self.served_from, self.served_subnets = public_addresses(served), subnets_of(served)
        self.served = served

    def _peer(
        self, lease: Lease, report: ConvergeReport, reserved: Collection[str], told: tuple[Lease, Peer] | None
    ) -> tuple[Lease, Peer]:
        """A lease and the peer that the status shows for it: the one that was `told`, if that says the same."""
        path, problem = report.paths.get(lease.key_name), report.peer_problems.get(lease.key_name)
        if problem and lease.key_name in reserved and self._lacks_data(lease):
            # A subnet reserved for a host that never ran: it has published nothing yet, and that is no problem.
            path, problem = "reserved", None
        if told is not None and told[0] is lease and (told[1].path, told[1].problem) == (path, problem):
            return told
        return lease, Peer(
            **address_fields(lease),
            backend=lease.backend_type,
            path=path,
            problem=problem,
        )

    def _lacks_data(self, lease: Lease) -> bool:
        """Whether a lease of this network's backend, or of no backend yet, lacks what the backend has to publish."""
        kinds = {DEFAULT_BACKEND}
        if any(self._context.backend.lease_data(version) is not None for version in self._context.config.versions):
            kinds.add(backends.published_type(self._context.config.backend_type))
        return lease.backend_type in kinds and all(family_lease.data is None for family_lease in lease.family_leases)


def public_addresses(peers: Collection[Lease]) -> frozenset[IPAddress]:
    """The addresses that peers send from."""
    return frozenset(family_lease.public_ip for peer in peers for family_lease in peer.family_leases)


def subnets_of(peers: Collection[Lease]) -> frozenset[IPNetwork]:
    """The subnets of peers."""
    return frozenset(family_lease.subnet for peer in peers for family_lease in peer.family_leases)


def address_fields(lease: Lease) -> dict[str, str | None]:
    """A lease's subnets and addresses as fields of the status, of this host's or of a peer's."""
    fields: dict[str, str | None] = {}
    for suffix, family_lease in (("", lease.v4), ("6", lease.v6)):
        fields[f"subnet{suffix}"] = str(family_lease.subnet) if family_lease else None
        fields[f"public_ip{suffix}"] = str(family_lease.public_ip) if family_lease else None
    return fields


def _by_subnet(lease: Lease) -> tuple[bool, int]:
    first = lease.family_leases[0]
    return first.version == 6, first.span[0]

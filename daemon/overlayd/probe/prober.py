"""The daemon's prober: it sends echoes from a container of this host to one of each peer, within a budget.

It runs in a thread of its own, which waits for its sockets only. Other threads may read its findings at any time.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from overlayd.errors import OverlaydError
from overlayd.lib.addresses import IPAddress, IPNetwork, contains
from overlayd.lib.log import logger
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.subnet_index import SubnetIndex
from overlayd.monitoring.state import Reach
from overlayd.probe import icmp
from overlayd.probe.container_sockets import ContainerSockets
from overlayd.probe.peers import KnownPeer, LocalHost, SourceContainer, describe_source, host_addresses, sender
from overlayd.probe.pinger import Echo, EchoResult, Pinger, Wake, overlay_echo, underlay_echo
from overlayd.probe.reach import (
    HOPS,
    INTERVAL_S,
    Diagnosis,
    PathState,
    interval_s,
    last_hop,
    most_fail,
    problems,
)

log = logger("probe")

TIMEOUT_S = 1.0
# A kernel reports that an address is not on its bridge after three ARP requests, one a second (arp(7)).
NO_CONTAINER_S = 3.5
# The budget holds as many echoes as may be sent in this time, which is about the longest exchange.
BURST_S = 4.0
# At most so many peers are diagnosed within one interval. A diagnosis takes some ten echoes.
DIAGNOSES_AT_ONCE = 3
# The shortest time between rounds, so that all peers that are due within it share a round.
ROUND_S = 1.0
# How often this host asks its own container whether that answers echoes.
ANSWERING_S = 30.0
# After a change in the kernel or of leases, all peers are asked within this time, as far as the budget allows.
SOON_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known now. `source` says where echoes are sent from, and what that cannot show; empty without peers.

    `container` are those addresses of the container that sends and receives echoes here which answer an echo of this
    host: peers may send echoes to them. `problems` are sentences. `severe`: at least half of all peers fail.
    """

    source: str = ""
    container: tuple[IPAddress, ...] = ()
    peers: tuple[Reach, ...] = ()
    problems: tuple[str, ...] = ()
    severe: bool = False


class Prober:
    """Sends echoes to peers until stopped. `follow`, `hurry` and `findings` may be used from any thread."""

    def __init__(
        self,
        container_sockets: ContainerSockets,
        *,
        rate_per_s: float,
        alive: Callable[[KnownPeer], tuple[bool | None, IPAddress | None]],
        on_change: Callable[[], None],
    ) -> None:
        """`alive` asks etcd whether a peer's daemon runs, and which container its prober uses; None where unknown.

        `on_change` is called in the prober's thread when other peers fail than before.
        """
        self._container_sockets = container_sockets
        self._rate_per_s = rate_per_s
        self._alive = alive
        self._on_change = on_change
        self._paths: dict[tuple[IPNetwork, IPAddress], PathState] = {}
        self._by_subnet: SubnetIndex[PathState] = SubnetIndex(())
        self._followed: Sequence[KnownPeer] = ()
        self._local = LocalHost()
        self._lock = threading.Lock()
        self._findings = Findings()
        self._rng = random.Random()
        self._tokens, self._refilled_at = rate_per_s, time.monotonic()
        self._wake = Wake()
        self._pinger = Pinger(heard=self._heard, wake=self._wake)
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        self._answering: tuple[SourceContainer | None, tuple[IPAddress, ...]] = (None, ())
        self._answering_again_at = 0.0
        self._diagnoses_from = 0.0
        self._diagnoses = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for its end."""
        self._wake.ends = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._wake.close()

    def follow(self, peers: Sequence[KnownPeer], local: LocalHost) -> None:
        """Send echoes to these peers from now on; `local` is this host. The same object means the same peers."""
        if peers is self._followed:
            with self._lock:
                self._local = local
            return
        self._followed = peers
        with self._lock:
            self._local = local
            # Most are the same objects as before: to look thousands up by their addresses takes long.
            before, now = {id(path.peer) for path in self._paths.values()}, {id(peer) for peer in peers}
            if before == now:
                return
            known, self._paths = self._paths, {key: path for key, path in self._paths.items() if id(path.peer) in now}
            for peer in peers:
                if id(peer) not in before:
                    self._paths[peer.subnet, peer.public_ip] = self._path(peer, known)
            self._by_subnet = SubnetIndex((path.peer.subnet, path) for path in self._paths.values())
        self._wake.set()

    def _path(self, peer: KnownPeer, known: Mapping[tuple[IPNetwork, IPAddress], PathState]) -> PathState:
        path = known.get((peer.subnet, peer.public_ip))
        if path is None:
            # A new peer gets its first echo after a moment: it is still configuring its kernel for us.
            return PathState(peer=peer, due=time.monotonic() + self._rng.uniform(1, SOON_S))
        path.peer = peer
        return path

    def hurry(self) -> None:
        """Send echoes to all peers soon, because something on the path has changed."""
        now = time.monotonic()
        with self._lock:
            for path in self._paths.values():
                path.due = min(path.due, now + self._rng.uniform(0, SOON_S))
        self._wake.set()

    @property
    def findings(self) -> Findings:
        """What is known now."""
        return self._findings

    def _run(self) -> None:
        try:
            while not self._wake.ends:
                self._round()
                self._wait()
        finally:
            self._pinger.close()
            self._container_sockets.close()

    def _wait(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = min((path.due for path in self._paths.values()), default=now + INTERVAL_S)
        # Where the budget is used up, wait until it has an echo again.
        wait_s = max(due - now, (1 - self._tokens) / self._rate_per_s, ROUND_S)
        self._pinger.listen(min(wait_s, INTERVAL_S))

    def _round(self) -> None:
        now = time.monotonic()
        most = max(1.0, BURST_S * self._rate_per_s)
        self._tokens = min(most, self._tokens + self._rate_per_s * (now - self._refilled_at))
        self._refilled_at = now
        with self._lock:
            local, paths = self._local, list(self._paths.values())
        sources = self._sources(paths, local)
        due = sorted((path for path in paths if path.due <= now), key=lambda path: path.due)
        due = due[: max(0, int(self._tokens))]
        if due:
            self._tokens -= len(due)
            every_s = interval_s(len(paths), self._rate_per_s)
            for known in (True, False):
                self._ask([path for path in due if path.known is known], local, sources, every_s)
        self._conclude(paths, local, sources)

    def _sources(self, paths: Sequence[PathState], local: LocalHost) -> tuple[SourceContainer, ...]:
        """The containers of this host to send from. Their sockets stay open, to receive peers' requests."""
        if not paths:
            # Each socket of a container can be taken once: for the next peers there have to be new ones.
            self._pinger.keep_only(())
            self._container_sockets.close()
            return ()
        sources = self._container_sockets.containers(local.subnets)
        self._pinger.keep_only(sources)
        for version in {path.peer.subnet.version for path in paths}:
            for source in sources[:1]:
                if source.address(version) is not None:
                    with contextlib.suppress(OSError):
                        self._pinger.open(version, source)
        self._ask_own_container(sources[0] if sources else None)
        return sources

    def _ask_own_container(self, source: SourceContainer | None) -> None:
        """Ask now and then whether the container answers this host: only then its address is published for peers."""
        now = time.monotonic()
        if source == self._answering[0] and now < self._answering_again_at:
            return
        self._answering_again_at = now + ANSWERING_S
        addresses = source.addresses if source is not None else ()
        echoes = [Echo(target=one, packet_bytes=icmp.smallest(one.version)) for one in addresses]
        outcomes = self._exchange(echoes, TIMEOUT_S)
        found = (one for one, outcome in zip(addresses, outcomes, strict=True) if outcome.rtt_s is not None)
        self._answering = source, tuple(found)

    def _ask(
        self, due: Sequence[PathState], local: LocalHost, sources: Sequence[SourceContainer], every_s: float
    ) -> None:
        now, targets = time.monotonic(), [path.next_target for path in due]
        echoes = [self._echo(path, target, local, sources, now) for path, target in zip(due, targets, strict=True)]
        outcomes = self._exchange(echoes, TIMEOUT_S if all(path.known for path in due) else NO_CONTAINER_S)
        now, clock = time.monotonic(), time.time()
        for path, target, outcome in zip(due, targets, outcomes, strict=True):
            if outcome.rtt_s is not None:
                path.answered(target, rtt_s=outcome.rtt_s, now=now, clock=clock, interval_s=every_s)
            elif _reports_no_container(outcome, path):
                path.on_empty(outcome.refused_by or target, now=now, interval_s=every_s)
            else:
                path.missed(now=now, clock=clock, interval_s=every_s)
                if path.wants_diagnosis and self._may_diagnose(path, now):
                    self._diagnose(path, target, local, sources, every_s)

    def _exchange(self, echoes: Sequence[Echo], timeout_s: float) -> list[EchoResult]:
        if not echoes:
            return []
        try:
            return self._pinger.exchange(echoes, timeout_s=timeout_s)
        except OverlaydError as error:
            return [EchoResult(problem=error.message)] * len(echoes)

    def _may_diagnose(self, path: PathState, now: float) -> bool:
        if not path.awaits_diagnosis and any(one.awaits_diagnosis for one in self._paths.values()):
            # Peers that were never diagnosed come first.
            return False
        if now - self._diagnoses_from > INTERVAL_S:
            self._diagnoses_from, self._diagnoses = now, 0
        self._diagnoses += 1
        return self._diagnoses <= DIAGNOSES_AT_ONCE

    def _diagnose(
        self, path: PathState, target: IPAddress, local: LocalHost, sources: Sequence[SourceContainer], every_s: float
    ) -> None:
        """Find out how far echoes get, and whether another container of this host gets an answer."""
        now, peer = time.monotonic(), path.peer
        again_echo = self._echo(path, target, local, sources, now)
        below = underlay_echo(peer.public_ip)
        hosts = [self._echo(path, address, local, sources, now) for address in host_addresses(peer.subnet)]
        hops = [self._echo(path, target, local, sources, now, hops=hops) for hops in range(1, HOPS + 1)]
        others = [self._echo(path, target, local, [other], now) for other in sources[1:]]
        found = iter(self._exchange([again_echo, below, *hosts, *hops, *others], NO_CONTAINER_S))
        self._tokens -= 2 + len(hosts) + len(hops) + len(others)
        again, under = next(found), next(found)
        of_hosts, of_hops = [next(found) for _ in hosts], [next(found) for _ in hops]
        now, clock = time.monotonic(), time.time()
        if again.rtt_s is not None:
            path.answered(target, rtt_s=again.rtt_s, now=now, clock=clock, interval_s=every_s)
        elif _reports_no_container(again, path):
            path.on_empty(again.refused_by or target, now=now, interval_s=every_s)
        elif any(one.rtt_s is not None for one in found):
            # Another container gets an answer: the fault is in the one that we send from.
            self._container_sockets.avoid(sources[0])
            path.due = now
        else:
            lives, published = self._alive(peer)
            path.on_published(published)
            diagnosis = Diagnosis(
                host=any(one.rtt_s is not None for one in of_hosts),
                underlay=under.rtt_s is not None,
                lives=lives,
                last_hop=last_hop([one.refused_by for one in of_hops]),
                reason=again.problem,
            )
            path.diagnosed(diagnosis, now=now)

    def _echo(
        self,
        path: PathState,
        target: IPAddress,
        local: LocalHost,
        sources: Sequence[SourceContainer],
        now: float,
        *,
        hops: int | None = None,
    ) -> Echo:
        source = sender(sources, target.version)
        answers = source is None or source.address(target.version) in self._answering[1]
        return overlay_echo(target, local, sources, note=path.note(now, answers=answers), hops=hops)

    def _heard(self, sender: IPAddress, note: bytes) -> None:
        """An echo request of a peer's container arrived at a socket of ours."""
        now = time.monotonic()
        for path in self._by_subnet.containing(sender):
            path.on_request(sender, note, now=now)

    def _describe_source(self, local: LocalHost, sources: Sequence[SourceContainer]) -> str:
        return describe_source(
            replace(local, containers=tuple(sources)), self._container_sockets.problem, self._container_sockets.bridge
        )

    def _conclude(self, paths: Sequence[PathState], local: LocalHost, sources: Sequence[SourceContainer]) -> None:
        for path in paths:
            path.refresh(time.monotonic())
        before = self._findings
        found = Findings(
            source=self._describe_source(local, sources) if paths else "",
            container=self._answering[1],
            peers=tuple(path.shown for path in paths),
            problems=problems(paths),
            severe=most_fail(paths),
        )
        self._findings = found
        for one in {*found.problems} - {*before.problems}:
            log.warning("not reached", problem=one)
        if (found.problems, found.severe, found.source) != (before.problems, before.severe, before.source):
            self._on_change()


def _reports_no_container(outcome: EchoResult, path: PathState) -> bool:
    """Whether the peer's host reports that no container has the address (RFC 792, RFC 4443: host unreachable)."""
    by = outcome.refused_by
    # With a backend without device, as host-gw, the report comes from the host's public address.
    from_peer = by is not None and (contains(path.peer.subnet, by) or by == path.peer.public_ip)
    return from_peer and outcome.reason == "host unreachable"

"""The daemon's own measuring: now and then an echo from a container here to one of each peer, within a budget.

A thread of its own, which waits for nothing but its sockets. What it finds is read by others at any time.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from overlayd.errors import OverlaydError
from overlayd.lib.addresses import IPAddress, IPNetwork, contains
from overlayd.lib.log import logger
from overlayd.monitoring.state import Reach
from overlayd.probe import icmp
from overlayd.probe.container_sockets import ContainerSockets
from overlayd.probe.peers import KnownPeer, ProbeSource, SourceContainer, inside, sender, source_words
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
# A kernel says that nobody is at an address after three questions on its bridge, a second each (arp(7)).
NOBODY_S = 3.5
# An exchange may last that long: what could have been sent meanwhile may be sent after it.
BURST_S = 4.0
# Where the way ends is looked into for so many peers within one interval; each takes some ten echoes.
TRIALS_AT_ONCE = 3
# What is due within so short a time is asked together.
ROUND_S = 1.0
# Whether the container here that is sent from answers its own host is asked so often.
ANSWERING_S = 30.0
# After a change in kernel or leases, all peers are asked within this, as far as the budget allows.
SOON_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known now. `source` says from where echoes are sent, and what that cannot show; empty: nobody is asked.

    `container` has the addresses of the container here that is sent from and listened in, as far as they answer echoes
    of this host: what peers may ask.

    `problems` are sentences; `severe`: at least half of all peers fail.
    """

    source: str = ""
    container: tuple[IPAddress, ...] = ()
    peers: tuple[Reach, ...] = ()
    problems: tuple[str, ...] = ()
    severe: bool = False


class Prober:
    """Asks peers until stopped. `follow` and `hurry` are called from any thread, as is `findings`."""

    def __init__(
        self,
        lender: ContainerSockets,
        *,
        rate_per_s: float,
        alive: Callable[[KnownPeer], tuple[bool | None, IPAddress | None]],
        on_change: Callable[[], None],
    ) -> None:
        """`alive` asks etcd whether a peer's daemon lives, and which container it probes from; None: not known.

        `on_change` is called in the prober's thread when what fails is another than before.
        """
        self._lender = lender
        self._rate_per_s = rate_per_s
        self._alive = alive
        self._on_change = on_change
        self._paths: dict[tuple[IPNetwork, IPAddress], PathState] = {}
        self._here = ProbeSource()
        self._lock = threading.Lock()
        self._findings = Findings()
        self._rng = random.Random()
        self._tokens, self._refilled_at = rate_per_s, time.monotonic()
        self._wake = Wake()
        self._pinger = Pinger(heard=self._heard, wake=self._wake)
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        self._answering: tuple[SourceContainer | None, tuple[IPAddress, ...]] = (None, ())
        self._answering_again_at = 0.0
        self._trials_from = 0.0
        self._trials = 0

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._wake.ends = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._wake.close()

    def follow(self, peers: Sequence[KnownPeer], here: ProbeSource) -> None:
        """Ask these peers from now on, from this host."""
        wanted = {(peer.subnet, peer.public_ip): peer for peer in peers}
        with self._lock:
            self._here = here
            if list(wanted.values()) == [path.peer for path in self._paths.values()]:
                return
            now = time.monotonic()
            paths = {}
            for key, peer in wanted.items():
                # A new one is given a moment: it programs us at the same time as we it.
                paths[key] = self._paths.get(key) or PathState(peer=peer, due=now + self._rng.uniform(1, SOON_S))
                paths[key].peer = peer
            self._paths = paths
        self._wake.set()

    def hurry(self) -> None:
        """Ask everybody soon: something on the way has changed."""
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
            self._lender.close()

    def _wait(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = min((path.due for path in self._paths.values()), default=now + INTERVAL_S)
        # With no echo left in the budget, until there is one.
        wait_s = max(due - now, (1 - self._tokens) / self._rate_per_s, ROUND_S)
        self._pinger.listen(min(wait_s, INTERVAL_S))

    def _round(self) -> None:
        now = time.monotonic()
        most = max(1.0, BURST_S * self._rate_per_s)
        self._tokens = min(most, self._tokens + self._rate_per_s * (now - self._refilled_at))
        self._refilled_at = now
        with self._lock:
            here, paths = self._here, list(self._paths.values())
        sources = self._sources(paths, here)
        due = sorted((path for path in paths if path.due <= now), key=lambda path: path.due)
        due = due[: max(0, int(self._tokens))]
        if due:
            self._tokens -= len(due)
            every_s = interval_s(len(paths), self._rate_per_s)
            for known in (True, False):
                self._ask([path for path in due if path.known is known], here, sources, every_s)
        self._conclude(paths, here, sources)

    def _sources(self, paths: Sequence[PathState], here: ProbeSource) -> tuple[SourceContainer, ...]:
        """The containers here to send from; their sockets stay open, so that peers' requests are heard there."""
        if not paths:
            # What was lent is had once: whoever comes next needs sockets of its own.
            self._pinger.keep_only(())
            self._lender.close()
            return ()
        sources = self._lender.containers(here.subnets)
        self._pinger.keep_only(sources)
        for version in {path.peer.subnet.version for path in paths}:
            for source in sources[:1]:
                if source.address(version) is not None:
                    with contextlib.suppress(OSError):
                        self._pinger.open(version, source)
        self._look_whether_it_answers(sources[0] if sources else None)
        return sources

    def _look_whether_it_answers(self, source: SourceContainer | None) -> None:
        """Ask the container here, now and then: peers are told only of what answers its own host."""
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
        self, due: Sequence[PathState], here: ProbeSource, sources: Sequence[SourceContainer], every_s: float
    ) -> None:
        now, targets = time.monotonic(), [path.next_target for path in due]
        echoes = [self._echo(path, target, here, sources, now) for path, target in zip(due, targets, strict=True)]
        outcomes = self._exchange(echoes, TIMEOUT_S if all(path.known for path in due) else NOBODY_S)
        now, clock = time.monotonic(), time.time()
        for path, target, outcome in zip(due, targets, outcomes, strict=True):
            if outcome.rtt_s is not None:
                path.answered(target, rtt_s=outcome.rtt_s, now=now, clock=clock, interval_s=every_s)
            elif _says_nobody_is_there(outcome, path):
                path.is_empty(outcome.refused_by or target, now=now, interval_s=every_s)
            else:
                path.missed(now=now, clock=clock, interval_s=every_s)
                if path.wants_trial and self._may_try(path, now):
                    self._try(path, target, here, sources, every_s)

    def _exchange(self, echoes: Sequence[Echo], timeout_s: float) -> list[EchoResult]:
        if not echoes:
            return []
        try:
            return self._pinger.exchange(echoes, timeout_s=timeout_s)
        except OverlaydError as error:
            return [EchoResult(problem=error.message)] * len(echoes)

    def _may_try(self, path: PathState, now: float) -> bool:
        if not path.waits_for_trial and any(one.waits_for_trial for one in self._paths.values()):
            # First those of which nothing is known yet.
            return False
        if now - self._trials_from > INTERVAL_S:
            self._trials_from, self._trials = now, 0
        self._trials += 1
        return self._trials <= TRIALS_AT_ONCE

    def _try(
        self, path: PathState, target: IPAddress, here: ProbeSource, sources: Sequence[SourceContainer], every_s: float
    ) -> None:
        """Find out how far packets come, and whether another container here gets further."""
        now, peer = time.monotonic(), path.peer
        whole = self._echo(path, target, here, sources, now)
        below = underlay_echo(peer.public_ip)
        hosts = [self._echo(path, address, here, sources, now) for address in inside(peer.subnet)]
        hops = [self._echo(path, target, here, sources, now, hops=hops) for hops in range(1, HOPS + 1)]
        others = [self._echo(path, target, here, [other], now) for other in sources[1:]]
        found = iter(self._exchange([whole, below, *hosts, *hops, *others], NOBODY_S))
        self._tokens -= 2 + len(hosts) + len(hops) + len(others)
        again, under = next(found), next(found)
        of_hosts, of_hops = [next(found) for _ in hosts], [next(found) for _ in hops]
        now, clock = time.monotonic(), time.time()
        if again.rtt_s is not None:
            path.answered(target, rtt_s=again.rtt_s, now=now, clock=clock, interval_s=every_s)
        elif _says_nobody_is_there(again, path):
            path.is_empty(again.refused_by or target, now=now, interval_s=every_s)
        elif any(one.rtt_s is not None for one in found):
            # Something is wrong with the container that we send from, and with it alone.
            self._lender.avoid(sources[0])
            path.due = now
        else:
            lives, published = self._alive(peer)
            path.is_published(published)
            trial = Diagnosis(
                host=any(one.rtt_s is not None for one in of_hosts),
                underlay=under.rtt_s is not None,
                lives=lives,
                last_hop=last_hop([one.refused_by for one in of_hops]),
                reason=again.problem,
            )
            path.tried(trial, now=now)

    def _echo(
        self,
        path: PathState,
        target: IPAddress,
        here: ProbeSource,
        sources: Sequence[SourceContainer],
        now: float,
        *,
        hops: int | None = None,
    ) -> Echo:
        source = sender(sources, target.version)
        answers = source is None or source.address(target.version) in self._answering[1]
        return overlay_echo(target, here, sources, note=path.note(now, answers=answers), hops=hops)

    def _heard(self, sender: IPAddress, note: bytes) -> None:
        with self._lock:
            paths = list(self._paths.values())
        now = time.monotonic()
        for path in paths:
            if contains(path.peer.subnet, sender):
                path.hears(sender, note, now=now)

    def _source_words(self, here: ProbeSource, sources: Sequence[SourceContainer]) -> str:
        return source_words(replace(here, containers=tuple(sources)), self._lender.problem, self._lender.bridge)

    def _conclude(self, paths: Sequence[PathState], here: ProbeSource, sources: Sequence[SourceContainer]) -> None:
        for path in paths:
            path.refresh(time.monotonic())
        before = self._findings
        found = Findings(
            source=self._source_words(here, sources) if paths else "",
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


def _says_nobody_is_there(outcome: EchoResult, path: PathState) -> bool:
    """Whether the peer's bridge found nobody at the address: its host could not resolve it (RFC 792, RFC 4443)."""
    by = outcome.refused_by
    # Without a device of the overlay, as with host-gw, it says so by its address on the underlay.
    its_own = by is not None and (contains(path.peer.subnet, by) or by == path.peer.public_ip)
    return its_own and outcome.reason == "host unreachable"

"""The state of the path from this host's containers to those of one peer, as echoes show it. Pure.

Times are seconds of two clocks: `now` is monotonic and is used for decisions, `clock` is the wall clock and is shown.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import field, replace

from overlayd import backends
from overlayd.lib.addresses import IPAddress, contains
from overlayd.lib.quick_dataclass import dataclass
from overlayd.monitoring.state import FAILING, HOST_ONLY, HOST_SILENT, NO_CONTAINER, NOT_ASKED, REACHED, Reach
from overlayd.probe.peers import CANDIDATES, KnownPeer, first_containers, host_addresses

# The time between two echoes to a peer, where the budget allows it; and after a lost one.
INTERVAL_S, RETRY_S = 10.0, 2.0
# A path fails after so many lost echoes in a row: single packets are lost on any network.
MISSES = 3
# The hops from a container to one of a peer: its own host, the peer's host, the container.
HOPS = 3
# The time between two diagnoses of a path that fails.
DIAGNOSE_S = 30.0
# How long a request that arrived from a peer's prober counts.
HEARD_S = 120.0

_NOTE = struct.Struct("!4sH")
# Whether the sending container answers echoes itself. Where it does not, its silence is no failure.
_ANSWERS, _IS_SILENT = b"ovl\1", b"ovl\2"
_NEVER = 0xFFFF
NOTE_BYTES = _NOTE.size


@dataclass(frozen=True, kw_only=True)
class HeardRequest:
    """A request of the peer's prober, which arrived here at the time `at`.

    `us_at` is the time at which our last request arrived there, as the peer's request says; minus infinity for never.
    """

    at: float
    us_at: float


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found out after echoes were lost. None: not known.

    `host` and `underlay`: whether the peer's host answered, by the overlay and by the underlay. `lives`: whether the
    peer's daemon has its presence in etcd. `last_hop` is the farthest hop towards the container that answered,
    `reason` an ICMP error.
    """

    host: bool | None = None
    underlay: bool | None = None
    lives: bool | None = None
    last_hop: str | None = None
    reason: str | None = None


@dataclass(kw_only=True, slots=True)
class PathState:
    """The path to one peer by one IP version, and its next echo."""

    peer: KnownPeer
    due: float
    target: IPAddress | None = None
    # Whether a container is known to be at `target`: it answered, sent a request, or its host names it in etcd.
    known: bool = False
    turn: int = 0
    misses: int = 0
    # When the first of the lost echoes in a row was sent.
    missed_at: float = 0.0
    heard: HeardRequest | None = None
    diagnosis: Diagnosis | None = None
    diagnosed_at: float = -math.inf
    shown: Reach = field(init=False)

    def __post_init__(self) -> None:
        self.shown = Reach(subnet=str(self.peer.subnet), public_ip=str(self.peer.public_ip))

    @property
    def next_target(self) -> IPAddress:
        """The address for the next echo: a known container's, else the next one that Docker may have handed out."""
        if self.target is not None:
            return self.target
        candidates = first_containers(self.peer.subnet)
        return candidates[self.turn % len(candidates)]

    @property
    def wants_diagnosis(self) -> bool:
        """Whether it is time for a diagnosis: echoes are lost, and the last diagnosis is old."""
        return self.misses >= MISSES and self.due >= self.diagnosed_at + DIAGNOSE_S

    @property
    def awaits_diagnosis(self) -> bool:
        """Whether echoes are lost and there was no diagnosis yet."""
        return self.misses >= MISSES and self.diagnosis is None

    def answered(self, by: IPAddress, *, rtt_s: float, now: float, clock: float, interval_s: float) -> None:
        """A container answered."""
        self.target, self.known, self.misses, self.diagnosis = by, True, 0, None
        self.diagnosed_at, self.due = -math.inf, now + interval_s
        self.shown = replace(
            self._blank(),
            state=REACHED,
            container=str(by),
            answered_by=str(by),
            rtt_ms=round(1000 * rtt_s, 3),
            reached_at_s=clock,
        )

    def on_empty(self, by: IPAddress, *, now: float, interval_s: float) -> None:
        """The peer's host reports that no container has the address: so the overlay works up to that host."""
        was = self.target
        self.target, self.known, self.misses, self.diagnosis = None, False, 0, None
        self.turn = 0 if was is not None else self.turn + 1
        # The next address gets its echo soon, until all addresses had theirs.
        self.due = now + (RETRY_S if self.turn % CANDIDATES else interval_s)
        self.shown = replace(
            self._blank(), state=NO_CONTAINER, answered_by=str(by), reached_at_s=self.shown.reached_at_s
        )

    def missed(self, *, now: float, clock: float, interval_s: float) -> None:
        """The echo was not answered, or a router refused it."""
        if not self.misses:
            self.missed_at = now
        self.misses += 1
        if not self.known:
            self.turn += 1
        self.due = now + (RETRY_S if self.misses < MISSES else interval_s)
        since = self.shown.failing_since_s or clock
        self.shown = replace(self.shown, failing_since_s=since, lost=self.shown.lost + 1, rtt_ms=None)

    def diagnosed(self, diagnosis: Diagnosis, *, now: float) -> None:
        """A diagnosis was made."""
        self.diagnosis, self.diagnosed_at = diagnosis, now
        state = self._state(diagnosis)
        self.shown = replace(
            self.shown,
            state=state,
            container=str(self.target) if self.known else None,
            last_hop=diagnosis.last_hop,
            problem=None,
        )
        if state in (HOST_ONLY, HOST_SILENT):
            self.shown = replace(self.shown, failing_since_s=None, lost=0)
        self.refresh(now)

    def refresh(self, now: float) -> None:
        """Bring the problem's sentence up to date: requests of the peer's prober may have arrived since."""
        if self.shown.state == FAILING and self.diagnosis is not None:
            self.shown = replace(self.shown, problem=self._sentence(self.diagnosis, now))

    def on_request(self, sender: IPAddress, note: bytes, *, now: float) -> None:
        """A request of the peer's prober arrived here. Others' requests have no note, and are ignored."""
        age_s = parse_note(note)
        if age_s is None:
            return
        self.heard = HeardRequest(at=now, us_at=now - age_s)
        # Only this container of the peer may fail; its host may send from another one by now.
        wanted = not self.known or (self.misses >= MISSES and sender != self.target)
        if note.startswith(_ANSWERS) and wanted and self._may_be_a_container(sender):
            self.target, self.known = sender, True
            self.due = min(self.due, now + RETRY_S)

    def on_published(self, address: IPAddress | None) -> None:
        """The peer's host names in etcd the container that its prober uses; None: it has none."""
        if address is not None and not self.known and self._may_be_a_container(address):
            self.target, self.known = address, True

    def note(self, now: float, *, answers: bool = True) -> bytes:
        """The bytes in our request for the peer's prober: how long ago its last request arrived here.

        `answers`: whether the container that sends our request answers echoes itself.
        """
        magic = _ANSWERS if answers else _IS_SILENT
        return _NOTE.pack(magic, _NEVER if self.heard is None else min(_NEVER - 1, int(now - self.heard.at)))

    def _may_be_a_container(self, address: IPAddress) -> bool:
        """Whether an address in the peer's subnet can be a container's: the host itself may send requests as well."""
        return contains(self.peer.subnet, address) and address not in host_addresses(self.peer.subnet)

    def _blank(self) -> Reach:
        return Reach(subnet=self.shown.subnet, public_ip=self.shown.public_ip)

    def _state(self, diagnosis: Diagnosis) -> str:
        if self.known and (diagnosis.host or diagnosis.underlay or diagnosis.lives):
            return FAILING
        if diagnosis.host:
            return HOST_ONLY
        if diagnosis.lives or (diagnosis.underlay and _host_answers(self.peer)):
            return FAILING
        # The host is switched off or runs no overlayd: nothing has to be repaired here. Its lease outlives it by a day.
        return HOST_SILENT

    def _sentence(self, diagnosis: Diagnosis, now: float) -> str:
        whom = f"container {self.target}" if self.known else f"anybody in {self.peer.subnet}"
        words = f"{whom} of {self.peer.public_ip} does not answer from here"
        if diagnosis.host:
            words += ", its host does"
        elif diagnosis.underlay:
            words += ", nor does its host by the overlay, though it does by the underlay"
        if direction := self._direction(now):
            words += f"; {direction}"
        if diagnosis.reason and diagnosis.reason != "no answer":
            words += f"; {diagnosis.reason}"
        return f"{words}; the last hop that answered: {diagnosis.last_hop or 'none'}"

    def _direction(self, now: float) -> str | None:
        """Which direction fails, as far as requests of the peer's prober show it."""
        heard = self.heard
        if heard is None:
            return None
        if heard.at < self.missed_at:
            # The peer's prober sends as often as ours.
            late = now - heard.at > 2 * INTERVAL_S + RETRY_S
            return "nothing arrives from there any more" if late and now - heard.at < HEARD_S else None
        if heard.us_at < self.missed_at - RETRY_S:
            return "its requests arrive here, ours do not arrive there"
        return "requests arrive in both directions, answers are lost"


def parse_note(note: bytes) -> float | None:
    """How many seconds ago our last request arrived at that prober, infinite for never; None for any other bytes."""
    if len(note) < NOTE_BYTES:
        return None
    magic, age_s = _NOTE.unpack_from(note)
    return (math.inf if age_s == _NEVER else float(age_s)) if magic in (_ANSWERS, _IS_SILENT) else None


def interval_s(count: int, rate_per_s: float) -> float:
    """The seconds between two echoes to a peer, with `count` peers and `rate_per_s` echoes a second to all of them."""
    return max(INTERVAL_S, count / rate_per_s)


def problems(paths: Sequence[PathState], *, at_most: int = 3) -> tuple[str, ...]:
    """A sentence for each of the first failing paths, and one with the number of the others."""
    failing = [path.shown for path in paths if path.shown.state == FAILING]
    sentences = [one.problem or one.subnet for one in failing[:at_most]]
    if len(failing) > at_most:
        sentences.append(f"and {len(failing) - at_most} more peers")
    return tuple(sentences)


def most_fail(paths: Sequence[PathState]) -> bool:
    """Whether at least half of the peers whose state is known are not reached.

    A peer with paths of both IP versions is one peer, and is not reached where one of them fails. A single broken peer
    is not this host's failure: else one host would take all others out of service. Paths that wait for a diagnosis do
    not count.
    """
    failing: dict[IPAddress, bool] = {}
    for path in paths:
        if path.shown.state not in (NOT_ASKED, HOST_SILENT) and not path.awaits_diagnosis:
            host = path.peer.host or path.peer.public_ip
            failing[host] = failing.get(host, False) or path.shown.state == FAILING
    return 2 * sum(failing.values()) >= max(1, len(failing))


def last_hop(refused_by: Sequence[IPAddress | None]) -> str | None:
    """The farthest router that refused an echo: the first echo had a hop limit of 1, each next one of one more."""
    found = None
    for hops, by in enumerate(refused_by, start=1):
        if by is not None:
            found = f"{by} (hop {hops})"
    return found


def _host_answers(peer: KnownPeer) -> bool:
    """Whether the peer's host itself answers inside the overlay, whether docker runs or not."""
    facts = backends.facts_of(peer.backend)
    return facts is not None and facts.host_answers

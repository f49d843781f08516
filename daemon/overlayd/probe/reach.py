"""What is known of the way from containers here to containers of one peer, from what echoes came to. Pure.

Times are seconds of two clocks: `now` is monotonic and decides, `clock` is the wall's and is shown.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from overlayd import backends
from overlayd.lib.addresses import IPAddress, contains
from overlayd.monitoring.state import FAILING, HOST_ONLY, HOST_SILENT, NO_CONTAINER, NOT_ASKED, REACHED, Reach
from overlayd.probe.peers import CANDIDATES, KnownPeer, first_containers, inside

# A peer is asked this often where the budget allows it, and at once again after an echo that was lost.
INTERVAL_S, RETRY_S = 10.0, 2.0
# So many echoes in a row are lost before that means something: one may be lost on any network.
MISSES = 3
# From a container here to one there: its host, the other host, the container.
HOPS = 3
# While nothing answers, why that is looked into so often.
DIAGNOSE_S = 30.0
# What a prober hears of another one is of use for so long.
HEARD_S = 120.0

_NOTE = struct.Struct("!4sH")
# What the sender is: one that answers echoes itself, or one that does not, so that it is no failure if it does not.
_ANSWERS, _IS_SILENT = b"ovl\1", b"ovl\2"
_NEVER = 0xFFFF
NOTE_BYTES = _NOTE.size


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A request of the peer's prober that arrived in a container here, `at` that time.

    `us_at` is when one of ours had last arrived there, as that request says; minus infinity for never.
    """

    at: float
    us_at: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What was tried once echoes were lost. None: not tried.

    `host` and `underlay` are whether the peer's host answered, inside the overlay and outside. `lives` is what etcd
    says of its daemon. `last_hop` is who answered farthest on the way to the container.
    """

    host: bool | None = None
    underlay: bool | None = None
    lives: bool | None = None
    last_hop: str | None = None
    reason: str | None = None


@dataclass(kw_only=True)
class Path:
    """One peer by one family, as it is being asked."""

    peer: KnownPeer
    due: float
    target: IPAddress | None = None
    # Whether a container is known to be at `target`: it answered, was heard, or its host says so in etcd.
    known: bool = False
    turn: int = 0
    misses: int = 0
    # When the first of the echoes that are being lost was sent.
    missed_at: float = 0.0
    heard: Heard | None = None
    trial: Trial | None = None
    tried_at: float = -math.inf
    shown: Reach = field(init=False)

    def __post_init__(self) -> None:
        self.shown = Reach(subnet=str(self.peer.subnet), public_ip=str(self.peer.public_ip))

    @property
    def next_target(self) -> IPAddress:
        """Whom to ask now: a container that is known, else the next address where Docker may have put one."""
        if self.target is not None:
            return self.target
        candidates = first_containers(self.peer.subnet)
        return candidates[self.turn % len(candidates)]

    @property
    def wants_trial(self) -> bool:
        """Whether it is time to find out where echoes are lost."""
        return self.misses >= MISSES and self.due >= self.tried_at + DIAGNOSE_S

    @property
    def waits_for_trial(self) -> bool:
        """Whether echoes are lost, and nobody has looked yet where."""
        return self.misses >= MISSES and self.trial is None

    def answered(self, by: IPAddress, *, rtt_s: float, now: float, clock: float, interval_s: float) -> None:
        """A container answered."""
        self.target, self.known, self.misses, self.trial = by, True, 0, None
        self.tried_at, self.due = -math.inf, now + interval_s
        self.shown = replace(
            self._blank(),
            state=REACHED,
            container=str(by),
            answered_by=str(by),
            rtt_ms=round(1000 * rtt_s, 3),
            reached_at_s=clock,
        )

    def is_empty(self, by: IPAddress, *, now: float, interval_s: float) -> None:
        """The peer's own bridge says that nobody is at the address: packets came out of the overlay there."""
        was = self.target
        self.target, self.known, self.misses, self.trial = None, False, 0, None
        self.turn = 0 if was is not None else self.turn + 1
        # The next address soon, until all were asked.
        self.due = now + (RETRY_S if self.turn % CANDIDATES else interval_s)
        self.shown = replace(
            self._blank(), state=NO_CONTAINER, answered_by=str(by), reached_at_s=self.shown.reached_at_s
        )

    def missed(self, *, now: float, clock: float, interval_s: float) -> None:
        """No answer, or a refusal by somebody on the way."""
        if not self.misses:
            self.missed_at = now
        self.misses += 1
        if not self.known:
            self.turn += 1
        self.due = now + (RETRY_S if self.misses < MISSES else interval_s)
        since = self.shown.failing_since_s or clock
        self.shown = replace(self.shown, failing_since_s=since, lost=self.shown.lost + 1, rtt_ms=None)

    def tried(self, trial: Trial, *, now: float) -> None:
        """Where the way ends was looked into."""
        self.trial, self.tried_at = trial, now
        state = self._state(trial)
        self.shown = replace(
            self.shown,
            state=state,
            container=str(self.target) if self.known else None,
            last_hop=trial.last_hop,
            problem=None,
        )
        if state in (HOST_ONLY, HOST_SILENT):
            self.shown = replace(self.shown, failing_since_s=None, lost=0)
        self.refresh(now)

    def refresh(self, now: float) -> None:
        """Say what fails as far as it is known now: the peer's prober may have been heard since."""
        if self.shown.state == FAILING and self.trial is not None:
            self.shown = replace(self.shown, problem=self._words(self.trial, now))

    def hears(self, sender: IPAddress, note: bytes, *, now: float) -> None:
        """A request of the peer's prober arrived here, from its container."""
        age_s = parse_note(note)
        if age_s is None:
            return
        self.heard = Heard(at=now, us_at=now - age_s)
        # One that fails may be the only one there that does: its host sends from another by now.
        wanted = not self.known or (self.misses >= MISSES and sender != self.target)
        if note.startswith(_ANSWERS) and wanted and self._may_be_a_container(sender):
            self.target, self.known = sender, True
            self.due = min(self.due, now + RETRY_S)

    def is_published(self, address: IPAddress | None) -> None:
        """Its host says in etcd which container it probes from; None: it has none."""
        if address is not None and not self.known and self._may_be_a_container(address):
            self.target, self.known = address, True

    def note(self, now: float, *, answers: bool = True) -> bytes:
        """What our request says to the peer's prober: how long ago one of its own arrived here.

        `answers`: whether the container here that sends it answers echoes itself.
        """
        magic = _ANSWERS if answers else _IS_SILENT
        return _NOTE.pack(magic, _NEVER if self.heard is None else min(_NEVER - 1, int(now - self.heard.at)))

    def _may_be_a_container(self, address: IPAddress) -> bool:
        """Whether an address is in the peer's subnet, and none of its host's own: that one may ask by itself."""
        return contains(self.peer.subnet, address) and address not in inside(self.peer.subnet)

    def _blank(self) -> Reach:
        return Reach(subnet=self.shown.subnet, public_ip=self.shown.public_ip)

    def _state(self, trial: Trial) -> str:
        if self.known and (trial.host or trial.underlay or trial.lives):
            return FAILING
        if trial.host:
            return HOST_ONLY
        if trial.lives or (trial.underlay and _host_answers(self.peer)):
            return FAILING
        # It was switched off, or runs no overlay: nothing to mend here, and its lease outlives it by a day.
        return HOST_SILENT

    def _words(self, trial: Trial, now: float) -> str:
        whom = f"container {self.target}" if self.known else f"anybody in {self.peer.subnet}"
        said = f"{whom} of {self.peer.public_ip} does not answer from here"
        if trial.host:
            said += ", its host does"
        elif trial.underlay:
            said += ", nor does its host by the overlay, though it does by the underlay"
        if direction := self._direction(now):
            said += f"; {direction}"
        if trial.reason and trial.reason != "no answer":
            said += f"; {trial.reason}"
        return f"{said}; the last hop that answered: {trial.last_hop or 'none'}"

    def _direction(self, now: float) -> str | None:
        """Which direction fails, where the peer's prober was heard or not."""
        heard = self.heard
        if heard is None:
            return None
        if heard.at < self.missed_at:
            # It asks as often as we do.
            late = now - heard.at > 2 * INTERVAL_S + RETRY_S
            return "nothing arrives from there any more" if late and now - heard.at < HEARD_S else None
        if heard.us_at < self.missed_at - RETRY_S:
            return "its requests arrive here, ours do not arrive there"
        return "requests arrive in both directions, answers are lost"


def parse_note(note: bytes) -> float | None:
    """How many seconds ago a prober last heard of us, infinite for never; None where it is no prober's note."""
    if len(note) < NOTE_BYTES:
        return None
    magic, age_s = _NOTE.unpack_from(note)
    return (math.inf if age_s == _NEVER else float(age_s)) if magic in (_ANSWERS, _IS_SILENT) else None


def interval_s(count: int, rate_per_s: float) -> float:
    """How often each of so many peers can be asked with so many echoes a second."""
    return max(INTERVAL_S, count / rate_per_s)


def problems(paths: Sequence[Path], *, at_most: int = 3) -> tuple[str, ...]:
    """What fails, in sentences: a few by name, the rest as a number."""
    failing = [path.shown for path in paths if path.shown.state == FAILING]
    said = [one.problem or one.subnet for one in failing[:at_most]]
    if len(failing) > at_most:
        said.append(f"and {len(failing) - at_most} more peers")
    return tuple(said)


def most_fail(paths: Sequence[Path]) -> bool:
    """Whether at least half of the peers that can be judged are not reached.

    One broken peer is not this host's failure: a fleet would be taken out of service because of one of its hosts.
    Where many are lost at once, those that were looked into speak for the rest.
    """
    judged = [
        path.shown.state
        for path in paths
        if path.shown.state not in (NOT_ASKED, HOST_SILENT) and not path.waits_for_trial
    ]
    return 2 * sum(state == FAILING for state in judged) >= max(1, len(judged))


def last_hop(refused_by: Sequence[IPAddress | None]) -> str | None:
    """Who answered farthest on the way, of echoes that may pass one router more each."""
    found = None
    for hops, by in enumerate(refused_by, start=1):
        if by is not None:
            found = f"{by} (hop {hops})"
    return found


def _host_answers(peer: KnownPeer) -> bool:
    """Whether the peer's host itself answers inside the overlay, whether docker runs or not."""
    facts = backends.facts_of(peer.backend)
    return facts is not None and facts.host_answers

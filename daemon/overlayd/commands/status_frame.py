"""What `overlayd status --watch` shows: a screen with the worst first, and what changed between two looks. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from overlayd.commands.status_report import DEAD, by_path, fields, indented, paths_of, reached, shortened
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.tables import columns
from overlayd.monitoring.readiness import checks, is_ready
from overlayd.monitoring.state import (
    FAILING,
    HOST_ONLY,
    HOST_SILENT,
    NO_CONTAINER,
    NOT_ASKED,
    REACHED,
    Peer,
    Reach,
    Status,
)

Line = tuple[str, str]
"""A line's style (lib/terminal.py) and its text."""

# From the worst to the best; a peer that is not programmed stands before all of them.
_ORDER = (FAILING, HOST_ONLY, HOST_SILENT, NOT_ASKED, NO_CONTAINER, REACHED)
# Of a kind of problem so many lines are shown.
PROBLEMS_AT_MOST, WARNINGS_AT_MOST = 6, 3
# A blank line, a title, the heads of the table.
_ABOVE_PEERS = 3
# A fact that every look at a daemon has which has started.
_OF_A_WHOLE_LOOK = "subnet"
# So many peers that change at once are named, else counted: after a start all do.
CHANGES_AT_MOST = 12


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found: a status, or why there is none. `at_s` is in seconds since the epoch."""

    at_s: float
    status: Status | None = None
    problem: str | None = None

    @property
    def headline(self) -> str:
        """Whether it is ready, in a sentence."""
        if self.status is None:
            return "overlayd has no status"
        if self.status.state in ("stopped", DEAD):
            return f"overlayd {self.status.version} is {self.status.state}; this is what it said last"
        return f"overlayd {self.status.version} is {'ready' if is_ready(self.status) else 'NOT ready'}"


Facts = Mapping[str, str]
"""What a look found, without times and counts that change all the time: words by what they are about."""


def facts(look: Look) -> Facts:
    """The facts of a look. Two looks with the same facts show the same to a person."""
    status = look.status
    if status is None:
        return {"overlayd": look.problem or "no status"}
    if status.state == "starting":
        # It knows nothing yet.
        return {"overlayd": "starting", "version": status.version, "process": str(status.pid)}
    reach = by_path(status)
    return {
        "overlayd": look.headline.partition(";")[0].removeprefix(f"overlayd {status.version} is "),
        "version": status.version,
        "process": str(status.pid),
        **{check.name: check.problem or "ok" for check in checks(status)},
        _OF_A_WHOLE_LOOK: status.subnets or "none",
        "underlay": f"{status.addresses} on {status.ifname}",
        "backend": f"{status.backend}, MTU {status.mtu_bytes}",
        "firewall": status.firewall or "left alone",
        "fast path": status.fast_path or "none",
        **{f"warning: {warning}": "given" for warning in status.warnings},
        **{f"{key} in etcd": problem for key, problem in status.skipped},
        **{f"peer {peer.subnets} at {peer.addresses}": _state_words(peer, reach) for peer in status.peers},
        "more peers": str(status.peers_untold),
    }


def changes(before: Facts, now: Facts, *, clock: str) -> list[str]:
    """A line for each fact that differs, with the time in front; of very many peers only their number.

    A look without a status, or at a daemon that starts, has few facts: the others are neither gone then, nor new later.
    """
    whole, whole_before = _OF_A_WHOLE_LOOK in now, _OF_A_WHOLE_LOOK in before
    found = [(name, f"{name} is gone") for name in before if name not in now and whole]
    for name, words in now.items():
        old = before.get(name)
        if old is None and whole_before:
            found.append((name, f"{name}: {words}, new"))
        elif old is not None and old != words:
            found.append((name, f"{name}: {words}, was {old}"))
    peers = [line for name, line in found if name.startswith("peer ")]
    if len(peers) > CHANGES_AT_MOST:
        found = [(name, line) for name, line in found if not name.startswith("peer ")]
        found.append(("", f"{len(peers)} peers changed"))
    return [f"{clock}  {line}" for _name, line in found]


def remembered(before: Facts, now: Facts) -> Facts:
    """The facts to compare the next look with: those of the last look that had all, where this one has few."""
    return now if _OF_A_WHOLE_LOOK in now else {**before, **now}


def frame(look: Look, history: Sequence[str], *, width: int, height: int, interval_s: float) -> list[Line]:
    """The screen: no more lines than `height`. `history` are lines of `changes`, the newest last."""
    status = look.status
    bad = status is None or not is_ready(status)
    lines = [("bad" if bad else "title", _headline(look, width, interval_s))]
    if status is None:
        lines += [("", ""), ("", look.problem or "")]
    else:
        lines += _problems(status)
        lines += [("", line) for line in indented(columns(fields(status, look.at_s)))]
    left = height - len(lines)
    below = _history(history, left, peers=_listed(status))
    if status is not None:
        lines += _peers(status, look.at_s, left - len(below))
    return [*lines, *below][:height]


def clock_of(at_s: float) -> str:
    """The time of day of this host."""
    return time.strftime("%H:%M:%S", time.localtime(at_s))


def _listed(status: Status | None) -> int:
    return 0 if status is None else len(status.peers) + bool(status.peers_untold)


def _headline(look: Look, width: int, interval_s: float) -> str:
    right = f"{clock_of(look.at_s)}, every {interval_s:g} s, q quits"
    return f"{look.headline}  {right.rjust(width - len(look.headline) - 2)}"


def _problems(status: Status) -> Iterator[Line]:
    wrong = [(check.name, shortened(check)) for check in checks(status) if check.problem]
    for style, title, rows, most in (
        ("bad", "not in order", wrong, PROBLEMS_AT_MOST),
        ("title", "warnings", [(one,) for one in status.warnings], WARNINGS_AT_MOST),
        ("title", "in etcd among the leases, and skipped", list(status.skipped), WARNINGS_AT_MOST),
    ):
        if rows:
            yield style, title
            yield from (("", line) for line in indented(columns(rows[:most])))
            if len(rows) > most:
                yield "", f"  and {len(rows) - most} more"


def _history(history: Sequence[str], room: int, *, peers: int) -> list[Line]:
    """The newest changes: a third of the room, or as much as the peers leave."""
    most = min(len(history), max(5, room // 3, room - peers - _ABOVE_PEERS) - 2)
    if most < 1 or room < 3:
        return []
    return [("", ""), ("title", "changes"), *(("", f"  {line}") for line in history[-most:])]


def _peers(status: Status, now_s: float, room: int) -> list[Line]:
    """The peers, the worst first, and how many more there are: no more lines than `room`."""
    total = len(status.peers) + status.peers_untold
    reach = by_path(status)
    states = Counter(_state(peer, reach) for peer in status.peers)
    counted = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items(), key=lambda one: _rank(one[0])))
    title = f"peers: {total:,}" + (f" ({counted})" if counted else "")
    head: list[Line] = [("", ""), ("title", title)]
    if not status.peers or room < len(head) + 2:
        return head if room >= len(head) else []
    rows = sorted(status.peers, key=lambda peer: _urgency(peer, reach))
    fit = room - len(head) - 1
    shown = rows if len(rows) <= fit and not status.peers_untold else rows[: max(0, fit - 1)]
    rest = Counter(_state(peer, reach) for peer in rows[len(shown) :])
    rest["not served"] += status.peers_untold
    heads = ("SUBNET", "PUBLIC ADDRESS", "PATH", "CONTAINERS", "PROBLEM")
    table = columns([heads, *(_row(peer, reach, now_s) for peer in shown)])
    styles = ["", *("bad" if peer.problem or _state(peer, reach) == FAILING else "" for peer in shown)]
    lines = [*head, *((style, f"  {line}") for style, line in zip(styles, table, strict=True))]
    if rest.total():
        words = ", ".join(f"{count:,} {state}" for state, count in rest.items() if count)
        lines.append(("", f"  and {rest.total():,} more: {words}"))
    return lines


def _row(peer: Peer, reach: Mapping[tuple[str, str], Reach], now_s: float) -> tuple[str, ...]:
    ways = paths_of(peer, reach)
    words = [reached(one, now_s) + (f", {one.rtt_ms:.2f} ms" if one.rtt_ms is not None else "") for one in ways]
    problem = peer.problem or "; ".join(one.problem for one in ways if one.problem)
    containers = ", ".join(words) or "not asked"
    return peer.subnets, peer.addresses, peer.path or "none", containers, problem or "none"


def _state(peer: Peer, reach: Mapping[tuple[str, str], Reach]) -> str:
    """The worst state of a peer's ways."""
    if peer.problem:
        return "not programmed"
    return min((one.state for one in paths_of(peer, reach)), key=_rank, default=NOT_ASKED)


def _rank(state: str) -> int:
    return _ORDER.index(state) if state in _ORDER else -1


def _urgency(peer: Peer, reach: Mapping[tuple[str, str], Reach]) -> tuple[int, float]:
    since = min((one.failing_since_s for one in paths_of(peer, reach) if one.failing_since_s is not None), default=0.0)
    return _rank(_state(peer, reach)), since


def _state_words(peer: Peer, reach: Mapping[tuple[str, str], Reach]) -> str:
    return peer.problem or ", ".join(one.state for one in paths_of(peer, reach)) or NOT_ASKED

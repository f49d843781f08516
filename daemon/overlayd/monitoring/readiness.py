"""Whether this host is ready, that is, whether its containers reach their peers: named checks of a status. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from overlayd.lib.quick_dataclass import dataclass
from overlayd.monitoring.state import Status

# People read this: so many peers are named, the rest are counted.
NAMED_AT_MOST = 3


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. `problem` is None where it passes."""

    name: str
    problem: str | None


def checks(status: Status, *, late: Sequence[str] = ()) -> tuple[Check, ...]:
    """Every check, always in the same order and under the same names; the host is ready when none has a problem.

    `late` has a sentence for each loop of the daemon that is stuck. A docker0 that is not there is no problem, as
    docker may come later; a docker.service that failed, or is enabled and was stopped, is one. Entries in etcd that are
    no leases are no problem: they are no peers. Nor are some peers that are not reached, as long as most are: one
    broken host would take a whole fleet out of service.
    """
    found = {
        "daemon": _daemon(status, late),
        "network-config": status.problem if status.state == "ready" else None,
        "etcd": None if status.etcd_connected else (status.etcd_problem or "not reached yet"),
        "lease": status.lease_problem or (None if status.subnets else "no subnet is held"),
        "data-path": _data_path(status),
        "peers": _peers(status),
        "docker": "; ".join(status.docker_problems) or None,
        "reachability": "; ".join(status.unreached) if status.unreached_most and status.unreached else None,
    }
    return tuple(Check(name=name, problem=problem) for name, problem in found.items())


def is_ready(status: Status, *, late: Sequence[str] = ()) -> bool:
    """Whether every check passes."""
    return not any(check.problem for check in checks(status, late=late))


def _daemon(status: Status, late: Sequence[str]) -> str | None:
    if late:
        return "; ".join(late)
    if status.state == "ready":
        return None
    return f"{status.state}: {status.problem}" if status.problem else status.state


def _data_path(status: Status) -> str | None:
    if status.problems:
        return "; ".join(status.problems)
    return None if status.state == "ready" else f"not looked after: the daemon is {status.state}"


def _peers(status: Status) -> str | None:
    bad = [peer for peer in status.peers if peer.problem]
    if not bad and not status.peers_untold:
        return None
    count, total = len(bad) + status.peers_untold, len(status.peers) + status.peers_untold
    named = [f"{peer.subnets} at {peer.addresses}: {peer.problem}" for peer in bad[:NAMED_AT_MOST]]
    more = [f"and {count - len(named)} more"] if count > len(named) else []
    return f"{count} of {total} not programmed: {'; '.join([*named, *more])}"

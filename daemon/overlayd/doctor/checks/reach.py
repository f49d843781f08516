"""Whether packets reach the containers of peers, whatever all other checks found. Pure."""

from __future__ import annotations

from collections.abc import Collection

from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, ok, problem, unknown
from overlayd.monitoring.state import FAILING, HOST_ONLY, HOST_SILENT, REACHED

NAME = "reachability"
NAMED_AT_MOST = 3


def reachability(facts: Facts, causes: Collection[str]) -> Finding:
    """Whether containers of peers answer one here, now. `causes` are the names of the checks that found problems."""
    here = facts.reach
    if here.problem is not None:
        return unknown(here.problem)
    failing = [one for one in here.peers if one.state == FAILING]
    if not failing:
        return ok(f"{_counts(facts)}; asked from {here.source}" if here.peers else "no peers to ask")
    found = "; ".join(
        here.daemon_problems.get(one.subnet) or one.problem or one.subnet for one in failing[:NAMED_AT_MOST]
    )
    more = f"; and {len(failing) - NAMED_AT_MOST} more" if len(failing) > NAMED_AT_MOST else ""
    why = f"see {', '.join(causes)}" if causes else "no check on this host says why"
    hosts = ", ".join(dict.fromkeys(one.public_ip for one in failing[:NAMED_AT_MOST]))
    return problem(
        f"{len(failing)} of {len(here.peers)} peers are not reached: {found}{more}; {why}; asked from {here.source}",
        advice=None if causes else f"run `overlayd doctor` there as well: {hosts}; and see `overlayd ping {hosts}`",
    )


def _counts(facts: Facts) -> str:
    peers = facts.reach.peers
    words = {
        REACHED: "of {} a container answers",
        HOST_ONLY: "of {} the host answers and no container is known",
        HOST_SILENT: "of {} nobody answers, not by the underlay either",
    }
    counted = {state: sum(one.state == state for one in peers) for state in words}
    return f"{len(peers)} peers: " + ", ".join(words[state].format(count) for state, count in counted.items() if count)

"""The daemon's status in words for people, and as a document for programs. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from overlayd.lib.tables import columns
from overlayd.monitoring.readiness import Check, checks, is_ready
from overlayd.monitoring.state import FAILING, REACHED, Peer, Reach, Status

DEAD = "dead"
"""The state of a daemon that ended without a word."""


def document(status: Status) -> dict[str, object]:
    """The status for programs: names in it are added, never renamed or taken away. `checks` are those of /readyz."""
    return {
        "ready": is_ready(status),
        "checks": {check.name: check.problem or "ok" for check in checks(status)},
        **dataclasses.asdict(status),
    }


def report(status: Status, *, now_s: float) -> Iterator[str]:
    """The status for people. Pure."""
    wrong = [check for check in checks(status) if check.problem]
    if status.state in ("stopped", DEAD):
        yield f"overlayd {status.version} is {status.state}; this is what it said last"
    else:
        yield f"overlayd {status.version} is {'NOT ready' if wrong else 'ready'}"
    yield from indented(columns(fields(status, now_s)))
    for title, rows in (
        ("not in order", [(check.name, shortened(check)) for check in wrong]),
        ("warnings", [(warning,) for warning in status.warnings]),
        ("in etcd among the leases, and skipped", list(status.skipped)),
        ("not reached by containers", [(one,) for one in status.unreached]),
        (f"peers: {len(status.peers) + status.peers_untold}", _peers(status, now_s)),
    ):
        if rows:
            yield ""
            yield title
            yield from indented(columns(rows))


def fields(status: Status, now_s: float) -> Iterator[tuple[str, str]]:
    """Names and values of what this host is and has."""
    if status.network_number:
        yield "network-number", f"{status.network_number} of this host"
    if status.subnets:
        yield "subnet", f"{status.subnets} of {status.network}{', reserved' if status.reserved else ''}"
    if status.backend:
        yield "backend", f"{status.backend}, container MTU {status.mtu_bytes}"
    if status.forwarder:
        yield "forwarder", status.forwarder
    yield "underlay", f"{status.addresses} on {status.ifname} ({status.ifname_reason})"
    endpoints = ", ".join(status.etcd_endpoints)
    yield "etcd", f"{endpoints}, {f'revision {status.etcd_revision}' if status.etcd_connected else 'AWAY'}"
    yield "firewall", status.firewall or "left alone"
    if status.fast_path:
        yield "fast path", status.fast_path if status.fast_path == "on" else f"off: {status.fast_path}"
    if status.probed_from:
        yield "measured from", status.probed_from
    if status.state not in ("stopped", DEAD):
        since = f"for {duration(now_s - status.started_at_s)}, " if status.started_at_s is not None else ""
        yield "running", f"{since}pid {status.pid}"
        if status.watched_at:
            yield "watched at", f"http://{status.watched_at}/readyz"


def shortened(check: Check) -> str:
    """The problem of a check; of peers only how many, as each has its own in the table."""
    return (check.problem or "").partition(":")[0] if check.name == "peers" else check.problem or ""


def _peers(status: Status, now_s: float) -> list[tuple[str, ...]]:
    if not status.peers and not status.peers_untold:
        return []
    reach = by_path(status)
    heads = ("SUBNET", "PUBLIC ADDRESS", "BACKEND", "PATH", "CONTAINERS", "PROBLEM")
    return [
        heads,
        *(
            (
                *(one.subnets, one.addresses, one.backend, path(one, status)),
                ", ".join(reached(found, now_s) for found in paths_of(one, reach)) or "not asked",
                one.problem or "none",
            )
            for one in status.peers
        ),
        *([(f"and {status.peers_untold} more", "", "", "none", "", "not served")] if status.peers_untold else []),
    ]


def path(peer: Peer, status: Status) -> str:
    """How a peer is reached, and whether past this host's network stack."""
    return f"{peer.path}, fast" if peer.path in status.fast_paths else peer.path or "none"


def by_path(status: Status) -> dict[tuple[str, str], Reach]:
    """What is known of each way, by the peer's subnet and address."""
    return {(one.subnet, one.public_ip): one for one in status.reach}


def paths_of(peer: Peer, reach: Mapping[tuple[str, str], Reach]) -> list[Reach]:
    """What is known of the ways to one peer: one for each IP version that is measured."""
    keys = ((peer.subnet, peer.public_ip), (peer.subnet6, peer.public_ip6))
    return [found for subnet, address in keys if (found := reach.get((subnet or "", address or ""))) is not None]


def reached(one: Reach, now_s: float) -> str:
    """In a few words, whether a peer's containers answer and when one last did."""
    if one.state == REACHED and one.reached_at_s is not None:
        return f"reached {duration(now_s - one.reached_at_s)} ago"
    since = f" for {duration(now_s - one.failing_since_s)}" if one.failing_since_s is not None else ""
    last = f", last reached {duration(now_s - one.reached_at_s)} ago" if one.reached_at_s is not None else ""
    return f"{'NOT REACHED' if one.state == FAILING else one.state}{since}{last}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `3 h 12 min`."""
    left = max(0, int(seconds))
    words: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not words):
            words.append(f"{count} {unit}")
    return " ".join(words[:2])


def indented(lines: Iterable[str]) -> Iterator[str]:
    """The lines below a title."""
    return (f"  {line}" for line in lines)

"""`overlayd status`: the daemon's status, as it last wrote it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator

from overlayd.commands.command import Command, Verb
from overlayd.commands.output import print_line
from overlayd.lib.tables import columns
from overlayd.monitoring import status_file
from overlayd.monitoring.readiness import Check, checks, is_ready
from overlayd.monitoring.state import FAILING, REACHED
from overlayd.monitoring.status_file import Reach, Status
from overlayd.settings import Settings

DEAD = "dead"


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Print the daemon's status; 0 when it is ready, as /readyz sees it, else 1."""
    found = status_file.read(settings.run_dir)
    if not status_file.alive(found) and found.state != "stopped":
        found = dataclasses.replace(found, state=DEAD, problem="it ended without a word; the data path stays as it is")
    if options.json:
        print_line(json.dumps(document(found), indent=2))
    else:
        for line in report(found, now_s=time.time()):
            print_line(line)
    return 0 if is_ready(found) else 1


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
    yield from _indented(columns(_fields(status, now_s)))
    for title, rows in (
        ("not in order", [(check.name, _shortened(check)) for check in wrong]),
        ("warnings", [(warning,) for warning in status.warnings]),
        ("in etcd among the leases, and skipped", list(status.skipped)),
        ("not reached by containers", [(one,) for one in status.unreached]),
        (f"peers: {len(status.peers) + status.peers_untold}", _peers(status, now_s)),
    ):
        if rows:
            yield ""
            yield title
            yield from _indented(columns(rows))


def _fields(status: Status, now_s: float) -> Iterator[tuple[str, str]]:
    if status.network_number:
        yield "network-number", f"{status.network_number} of this host"
    if status.subnets:
        yield "subnet", f"{status.subnets} of {status.network}{', reserved' if status.reserved else ''}"
    if status.backend:
        yield "backend", f"{status.backend}, container MTU {status.mtu_bytes}"
    yield "underlay", f"{status.addresses} on {status.ifname} ({status.ifname_reason})"
    endpoints = ", ".join(status.etcd_endpoints)
    yield "etcd", f"{endpoints}, {f'revision {status.etcd_revision}' if status.etcd_connected else 'AWAY'}"
    yield "firewall", status.firewall or "left alone"
    if status.probed_from:
        yield "measured from", status.probed_from
    if status.state not in ("stopped", DEAD):
        since = f"for {duration(now_s - status.started_at_s)}, " if status.started_at_s is not None else ""
        yield "running", f"{since}pid {status.pid}"
        if status.watched_at:
            yield "watched at", f"http://{status.watched_at}/readyz"


def _shortened(check: Check) -> str:
    # The table below has the problem of each peer.
    return (check.problem or "").partition(":")[0] if check.name == "peers" else check.problem or ""


def _peers(status: Status, now_s: float) -> list[tuple[str, ...]]:
    if not status.peers and not status.peers_untold:
        return []
    reach = {(one.subnet, one.public_ip): one for one in status.reach}
    heads = ("SUBNET", "PUBLIC ADDRESS", "BACKEND", "PATH", "CONTAINERS", "PROBLEM")
    return [
        heads,
        *(
            (
                *(one.subnets, one.addresses, one.backend, one.path or "none"),
                ", ".join(
                    reached(found, now_s)
                    for key in ((one.subnet, one.public_ip), (one.subnet6, one.public_ip6))
                    if (found := reach.get((key[0] or "", key[1] or ""))) is not None
                )
                or "not asked",
                one.problem or "none",
            )
            for one in status.peers
        ),
        *([(f"and {status.peers_untold} more", "", "", "none", "", "not served")] if status.peers_untold else []),
    ]


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


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as one JSON document")


COMMAND = Command(
    place=30,
    does=Verb(
        name="status",
        help="show the lease, the peers, etcd and what is wrong; exit status 1 when not ready",
        manual="What the daemon last said of itself. Everybody may read it. The exit status is 0 when the daemon is "
        "ready and nothing is wrong. CONTAINERS is what echoes from a container here to one of the peer came to.",
        needs_root=None,
        needs_etcd=False,
        run=main,
        add_flags=_add_flags,
        without_settings=True,
    ),
)

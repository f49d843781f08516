"""The bench in network namespaces: a lab for each backend, and peers in the first one."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from overlayd.errors import OverlaydError
from tests.perf import daemon_cost, many
from tests.perf.fast_path import decided
from tests.perf.joining import MTUS_BYTES, PEERS, join, with_all_peers
from tests.perf.layout import subject
from tests.perf.measuring import Pace, rounds
from tests.perf.topology_namespaces import NamespaceTopology
from tests.perf.wanted import Wanted, missing
from tests.testbed.netns.lab import ETCD, Host, Lab, laboratory

_FAILURES = (OverlaydError, AssertionError, OSError, subprocess.SubprocessError)


def measure(wanted: Wanted, pace: Pace, say: Callable[[str], None]) -> dict[str, Any]:
    """The figures of this place. What fails of it is a reason in its row."""
    subjects: dict[str, Any] = {}
    peers = PEERS if wanted.peers else ()
    document: dict[str, Any] = {"subjects": subjects}
    if wanted.many:
        document |= many.measure(say, repeat=pace.repeat, idle_s=wanted.idle_s)
    for name in wanted.backends if wanted.ways or wanted.daemon else ():
        if reason := missing(name):
            subjects[name] = subject("backend", reason=reason)
            continue
        say(f"namespaces: {name}")
        try:
            with _hosts(name) as (lab, first, second, folder), ExitStack() as stack:
                topology = NamespaceTopology(first, second)
                stack.callback(topology.remove)
                ways, reasons = join(topology, peers, stack, folder, say)
                peers = ()
                fast_path = decided(first.status)
                if wanted.ways:
                    own = {name: topology.containers()} if name in wanted.measured else {}
                    found = rounds(topology.underlay, {**own, **ways}, pace, folder, say)
                    mtus = {**MTUS_BYTES, name: first.mtu_bytes}
                    for one, figures in found.items():
                        kind = "backend" if one == name else "peer"
                        said = fast_path if one == name else None
                        subjects[one] = subject(kind, figures=figures, mtu_bytes=mtus[one], fast_path=said)
                    subjects |= {one: subject("peer", reason=reason) for one, reason in reasons.items()}
                stack.close()
                if wanted.daemon and "daemon" not in document:
                    say("namespaces: the daemon's own cost")
                    try:
                        document |= _daemon(lab, topology, name, pace, wanted.idle_s)
                    except _FAILURES as error:
                        document |= daemon_cost.unmeasured(error, name)
        except _FAILURES as error:
            # What was measured before it failed stays.
            subjects.setdefault(name, subject("backend", reason=str(error).strip()[-500:]))
    return with_all_peers(document, wanted)


@contextmanager
def _hosts(backend: str) -> Iterator[tuple[Lab, Host, Host, Path]]:
    with (
        tempfile.TemporaryDirectory(prefix="overlayd-bench-") as name,
        laboratory(Path(name), {"Type": backend}) as lab,
    ):
        first, second = (lab.host(one, settings={"fast-path": "auto"}) for one in "ab")
        yield lab, first, second, Path(name)


def _daemon(lab: Lab, topology: NamespaceTopology, backend: str, pace: Pace, idle_s: float) -> dict[str, Any]:
    second = topology.hosts[1]
    process = Path(f"/proc/{second.status()['pid']}")
    found = daemon_cost.idle(process, idle_s)
    before = second.launcher

    def start_to_ready() -> float:
        second.stop()

        def start(notify_socket: str) -> None:
            second.launcher = ("env", f"NOTIFY_SOCKET={notify_socket}", *before)
            second.start(ready=False)

        return daemon_cost.seconds_until_ready(start)

    found["start_to_ready_s"] = daemon_cost.several(start_to_ready, pace.repeat)
    second.launcher = before
    second.stop()
    words: Sequence[str] = [*lab.inside, "env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={ETCD}"]
    found["lease_to_first_reply_s"] = daemon_cost.measured(
        lambda: daemon_cost.LeaseToReply(topology.containers(), second.address, lab.etcdctl, words), pace.repeat
    )
    conditions = {"backend": backend, "peers": 1, "resync_s": 2, "idle_s": idle_s, "frozen": False}
    return {"daemon": found, "daemon_conditions": conditions}

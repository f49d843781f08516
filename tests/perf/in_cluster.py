"""The bench in a cluster: one cluster, switched from backend to backend, and peers beside the first one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from overlayd.errors import OverlaydError
from overlayd.settings.table import Settings
from tests.perf import daemon_cost
from tests.perf.fast_path import decided
from tests.perf.joining import MTUS_BYTES, PEERS, join, with_all_peers
from tests.perf.layout import subject
from tests.perf.measuring import Pace, rounds
from tests.perf.topology_cluster import ClusterTopology, give_wireguard_go, process_of
from tests.perf.wanted import Wanted, missing
from tests.testbed.cluster import measure as matrices
from tests.testbed.cluster import plan
from tests.testbed.cluster.capability import may_load_bpf
from tests.testbed.cluster.description import backend_json
from tests.testbed.cluster.figures import NotAFigure, as_document
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.site import ClusterSite

_PINGS = 50


def measure(
    site: ClusterSite, wanted: Wanted, pace: Pace, folder: Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of this place; and for each backend the matrix of hosts with its main figures (`backends`)."""
    subjects: dict[str, Any] = {}
    backends: dict[str, Any] = {}
    document: dict[str, Any] = {"subjects": subjects}
    topology = ClusterTopology(site)
    peers = PEERS if wanted.peers else ()
    for name in wanted.backends:
        if reason := missing(name):
            subjects[name] = subject("backend", reason=reason)
            continue
        say(f"cluster: {name}")
        try:
            _switch(site, name)
            with ExitStack() as stack:
                for host in site.hosts:
                    stack.enter_context(may_load_bpf(host))
                fast_path = decided(site.hosts[0].status)
                ways, reasons = join(topology, peers, stack, folder, say)
                peers = ()
                own = {name: topology.containers()} if name in wanted.measured else {}
                found = rounds(topology.underlay, {**own, **ways}, pace, folder, say) if own or ways else {}
            mtus = {**MTUS_BYTES, name: int(site.hosts[0].variables()["FLANNEL_MTU"])}
            for one, figures in found.items():
                kind = "backend" if one == name else "peer"
                said = fast_path if one == name else None
                subjects[one] = subject(kind, figures=figures, mtu_bytes=mtus[one], fast_path=said)
            subjects |= {one: subject("peer", reason=reason) for one, reason in reasons.items()}
            if name in found and "value" in found[name]["tcp_1_flow_gbit_s"]:
                backends[name] = _matrix(site, subjects[name])
        except (OverlaydError, NotAFigure) as error:
            say(f"{name}: {error}")
            # What was measured before it failed stays.
            subjects.setdefault(name, subject("backend", reason=str(error)))
            continue
        if wanted.daemon and "daemon" not in document:
            say("cluster: the daemon's own cost")
            try:
                document |= _daemon(site, topology, name, pace, wanted.idle_s)
            except OverlaydError as error:
                say(f"the daemon's own cost: {error}")
                document |= daemon_cost.unmeasured(error, name)
    return with_all_peers(document, wanted), backends


def _switch(site: ClusterSite, name: str) -> None:
    if site.cluster.backend_type != name:
        if name == "wireguard":
            give_wireguard_go(site)
        site.reconfigure(backend_json(name))


def _matrix(site: ClusterSite, found: dict[str, Any]) -> dict[str, Any]:
    """A backend as the page of the night shows it: echoes of the first pair, and every pair of hosts."""
    first, second = site.hosts[:2]
    above = matrices.ping(first.in_probe, second.probe_address(), count=_PINGS, interval_s=0.01)
    below = matrices.ping(first.in_underlay, second.address, count=_PINGS, interval_s=0.01)
    rate = found["figures"]["tcp_1_flow_gbit_s"]
    return {
        "mtu_bytes": found["mtu_bytes"],
        "gbit_s": rate["value"],
        "underlay_gbit_s": rate["bare"],
        "part": rate["part"],
        "round_trip_ms": above.average_ms,
        "underlay_round_trip_ms": below.average_ms,
        "lost": above.lost,
        "pairs": as_document(matrices.matrix(site)),
    }


def _daemon(site: ClusterSite, topology: ClusterTopology, backend: str, pace: Pace, idle_s: float) -> dict[str, Any]:
    second = site.hosts[1]
    process = process_of(second, second.unit("overlayd", "MainPID")["MainPID"])
    found = daemon_cost.idle(process, idle_s)
    found["start_to_ready_s"] = daemon_cost.several(lambda: _restart_s(second), pace.repeat)
    assert site.etcd is not None
    run_in_etcd = ["docker", "exec", "--interactive", "--user=root", "--env=ETCDCTL_API=3", str(site.etcd.name)]
    words = [*run_in_etcd, *plan.etcdctl(site.cluster)]
    # Its data path stays, and so do its containers.
    second.run("systemctl", "stop", "overlayd")
    try:
        found["lease_to_first_reply_s"] = daemon_cost.measured(
            lambda: daemon_cost.LeaseToReply(topology.containers(), second.address, site.etcdctl, words), pace.repeat
        )
    finally:
        second.run("systemctl", "start", "overlayd")
    conditions = {"backend": backend, "peers": len(site.hosts) - 1, "resync_s": Settings.resync_s, "idle_s": idle_s}
    return {"daemon": found, "daemon_conditions": conditions | {"frozen": True}}


def _restart_s(machine: Machine) -> float:
    """From the start of the daemon's process to its READY=1, as systemd saw both, in s."""
    machine.run("systemctl", "restart", "overlayd")
    moments = machine.unit("overlayd", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    began, ready = (int(moments[name]) for name in sorted(moments, reverse=True))
    return (ready - began) / 1e6

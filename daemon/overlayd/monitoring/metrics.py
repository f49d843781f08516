"""Metrics of the status and the process; events are counted where they happen (lib/counters.py). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from overlayd.lib.exposition import Family, family
from overlayd.lib.quick_dataclass import dataclass
from overlayd.monitoring.readiness import checks, is_ready
from overlayd.monitoring.state import FAILING, REACH_STATES, Status


@dataclass(frozen=True, kw_only=True)
class Process:
    """This process as the kernel measures it."""

    cpu_s: float
    resident_bytes: int
    threads: int
    python: str
    clock_s: float
    """This host's clock, in seconds since the epoch."""


def status_families(status: Status, *, late: Sequence[str] = ()) -> Iterator[Family]:
    """The status as metrics."""
    yield _gauge("overlayd_ready", "1 where /readyz answers 200.", is_ready(status, late=late))
    yield Family(
        name="overlayd_check_ok",
        kind="gauge",
        text="1 for each check of /readyz that is well.",
        samples=tuple(({"check": one.name}, float(one.problem is None)) for one in checks(status, late=late)),
    )
    yield _gauge("overlayd_etcd_connected", "1 while the network in etcd is being followed.", status.etcd_connected)
    yield _gauge("overlayd_etcd_revision", "etcd's revision as of the last change seen.", status.etcd_revision)
    held = bool(status.subnets) and status.lease_problem is None
    yield _gauge("overlayd_lease_held", "1 while this host holds a subnet.", held)
    if status.subnets:
        yield family(
            "gauge",
            "overlayd_lease_info",
            "This host's subnet, and the network and backend it belongs to.",
            1,
            subnet=status.subnets,
            network=status.network or "",
            backend=status.backend or "",
            reserved=str(status.reserved).lower(),
        )
    yield _gauge("overlayd_peers", "Other hosts that hold a lease.", len(status.peers) + status.peers_untold)
    yield _gauge(
        "overlayd_peers_with_problems",
        "Peers that this host could not be programmed for.",
        sum(peer.problem is not None for peer in status.peers) + status.peers_untold,
    )
    yield _gauge(
        "overlayd_leases_skipped", "Entries among the leases in etcd that are not leases.", len(status.skipped)
    )
    yield _gauge(
        "overlayd_data_path_problems",
        "What the kernel or the firewall refused of this host's own part.",
        len(status.problems),
    )
    yield _gauge(
        "overlayd_docker_problems",
        "What is wrong with docker0's address or daemon.json, given the lease.",
        len(status.docker_problems),
    )
    if status.probed_from is None:
        return
    counts = Counter(one.state for one in status.reach)
    yield Family(
        name="overlayd_peers_reach",
        kind="gauge",
        text="Peers, each family by itself, by what echoes to their containers came to.",
        samples=tuple(({"state": state}, float(counts[state])) for state in REACH_STATES),
    )
    yield Family(
        name="overlayd_peer_last_reached_timestamp_seconds",
        kind="gauge",
        text="When a container of the peer last answered one of here, in seconds since the epoch.",
        samples=tuple(
            ({"subnet": one.subnet, "public_ip": one.public_ip}, one.reached_at_s)
            for one in status.reach
            if one.reached_at_s is not None
        ),
    )
    # Only the peers that fail have a sample: in a large network each host would else have thousands.
    yield Family(
        name="overlayd_peer_failing_since_timestamp_seconds",
        kind="gauge",
        text="Since when no container of the peer answers though one should, in seconds since the epoch.",
        samples=tuple(
            ({"subnet": one.subnet, "public_ip": one.public_ip}, one.failing_since_s)
            for one in status.reach
            if one.state == FAILING and one.failing_since_s is not None
        ),
    )
    yield Family(
        name="overlayd_peer_lost_echoes",
        kind="gauge",
        text="How many echoes in a row no container of the peer has answered.",
        samples=tuple(
            ({"subnet": one.subnet, "public_ip": one.public_ip}, float(one.lost)) for one in status.reach if one.lost
        ),
    )


def process_families(status: Status, process: Process) -> Iterator[Family]:
    """Metrics that every program has, under the names of Prometheus' own client libraries."""
    yield family(
        "gauge",
        "overlayd_build_info",
        "The version of overlayd and of the Python inside it.",
        1,
        version=status.version,
        python=process.python,
    )
    yield _gauge("overlayd_time_seconds", "This host's clock, in seconds since the epoch.", process.clock_s)
    if status.started_at_s is not None:
        yield _gauge("process_start_time_seconds", "Start, in seconds since the epoch.", status.started_at_s)
    yield family("counter", "process_cpu_seconds_total", "User and system CPU time spent.", process.cpu_s)
    yield _gauge("process_resident_memory_bytes", "Resident memory.", process.resident_bytes)
    yield _gauge("process_threads", "Threads, gRPC's among them.", process.threads)


def _gauge(name: str, text: str, value: float) -> Family:
    return family("gauge", name, text, value)

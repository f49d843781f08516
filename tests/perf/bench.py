"""Measure a cluster: how fast it starts, and its throughput with each backend compared with the underlay.

The figures are one JSON document. Rates are of one TCP flow in Gb/s, round trips in ms, durations in s.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

from tests.testbed.cluster import measure
from tests.testbed.cluster.create import create, remove
from tests.testbed.cluster.description import Cluster, backend_json
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.figures import Spread, as_document
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite

BACKENDS = ("vxlan", "host-gw", "udp")
# A cluster of its own, apart from those of `make up` and of the tests.
NAME = "bench"
UNDERLAY = IPv4Network("198.18.30.0/24")
_PINGS = 50


def bench(
    base: str, say: Callable[[str], None], *, backends: Sequence[str] = BACKENDS, repeat: int = 3, duration_s: int = 2
) -> dict[str, Any]:
    """Start a cluster, measure it with each backend, and remove it; the figures. Raises OverlaydError."""
    remove(NAME)
    document: dict[str, Any] = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": _machine(base)}
    try:
        site = create(Cluster(name=NAME, base=base, underlay=UNDERLAY, backend=backend_json(backends[0])), say)
        document["start"] = _start(site)
        document["backends"] = {}
        for name in backends:
            if site.cluster.backend_type != name:
                site.reconfigure(backend_json(name))
            say(f"measuring {name}")
            document["backends"][name] = _backend(site, repeat, duration_s)
    finally:
        remove(NAME)
    return document


def _machine(base: str) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "docker": client().version()["Version"],
        "base": base,
    }


def _start(site: ClusterSite) -> dict[str, Any]:
    took = site.took_s
    return {
        "steps_s": {name: round(seconds, 2) for name, seconds in took.items()},
        # From the first `docker run` of a host until docker is active on the last host.
        "hosts_to_docker_s": round(took["hosts"] + took["leases and docker"], 2),
        "whole_s": round(sum(took.values()), 2),
        "hosts": {machine.name: times for machine, times in zip(site.hosts, each(_boot, site.hosts), strict=True)},
    }


def _boot(machine: Machine) -> dict[str, float]:
    """When a host's units were starting and active, in s after its systemd started."""
    began = int(machine.run("systemctl", "show", "--property=UserspaceTimestampMonotonic", "--value"))
    overlayd = machine.unit("overlayd", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    docker = machine.unit("docker", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    moments = {
        "overlayd started": overlayd["ExecMainStartTimestampMonotonic"],
        "overlayd ready": overlayd["ActiveEnterTimestampMonotonic"],
        "docker started": docker["ExecMainStartTimestampMonotonic"],
        "docker active": docker["ActiveEnterTimestampMonotonic"],
    }
    return {name: round((int(moment) - began) / 1e6, 2) for name, moment in moments.items()}


def _backend(site: ClusterSite, repeat: int, duration_s: int) -> dict[str, Any]:
    first, second = site.hosts[0], site.hosts[1]
    overlay: list[float] = []
    underlay: list[float] = []
    # Measured in turns, so that other work affects both alike. The first flow of each is a warm-up.
    measure.underlay_rate(first, second)
    measure.overlay_rate(first, second)
    for _ in range(repeat):
        underlay.append(measure.underlay_rate(first, second, duration_s=duration_s))
        overlay.append(measure.overlay_rate(first, second, duration_s=duration_s))
    parts = [above / below for above, below in zip(overlay, underlay, strict=True)]
    above = measure.ping(first.in_probe, second.probe_address(), count=_PINGS, interval_s=0.01)
    below = measure.ping(first.in_underlay, second.address, count=_PINGS, interval_s=0.01)
    return {
        "mtu_bytes": int(first.variables()["FLANNEL_MTU"]),
        "gbit_s": _rounded(Spread.of(overlay)),
        "underlay_gbit_s": _rounded(Spread.of(underlay)),
        "part": _rounded(Spread.of(parts)),
        "round_trip_ms": above.average_ms,
        "underlay_round_trip_ms": below.average_ms,
        "lost": above.lost,
        "pairs": as_document(measure.matrix(site)),
    }


def _rounded(value: Spread) -> dict[str, Any]:
    return {name: round(found, 3) for name, found in dataclasses.asdict(value).items()}

"""Measure a cluster's start, every backend and its peers in both places, and what our daemon costs: one document.

layout.py tells what is in it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from images.engine import sandbox
from images.engine.interrupts import sigterm_raises
from tests.perf import in_cluster, in_namespaces
from tests.perf.layout import LAYOUT
from tests.perf.measuring import PACE, ROOT, Pace
from tests.perf.wanted import BACKENDS, PARTS, Wanted, in_place
from tests.testbed.cluster.create import standing
from tests.testbed.cluster.description import Cluster, backend_json
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite

# A cluster of its own, apart from those of `make up` and of the tests.
NAME = "bench"
UNDERLAY = IPv4Network("198.18.30.0/24")
_MODEL = re.compile(r"^model name\s*: (.+)$", re.MULTILINE)


def bench(
    base: str,
    say: Callable[[str], None],
    *,
    backends: Sequence[str] = BACKENDS,
    only: Sequence[str] = PARTS,
    pace: Pace = PACE,
    idle_s: float = 30.0,
    name: str = NAME,
    underlay: IPv4Network = UNDERLAY,
) -> dict[str, Any]:
    """Measure those parts; the document, not compared yet. Nothing of it stays. Raises OverlaydError, BuildError."""
    sandbox.require_root_user()
    sandbox.require("nsenter", "setpriv", "iperf3")
    document: dict[str, Any] = {
        "layout": LAYOUT,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(base),
        "parts": [part for part in PARTS if part in only],
        "places": {},
    }
    # CI systems send SIGTERM, and what was started has to go then too.
    with sigterm_raises():
        if wanted := in_place("cluster", only, backends, idle_s):
            cluster = Cluster(name=name, base=base, underlay=underlay, backend=backend_json(wanted.backends[0]))
            document |= _cluster(cluster, wanted, pace, say)
        if wanted := in_place("namespaces", only, backends, idle_s):
            document["places"]["namespaces"] = in_namespaces.measure(wanted, pace, say)
    return document


def _cluster(cluster: Cluster, wanted: Wanted, pace: Pace, say: Callable[[str], None]) -> dict[str, Any]:
    with standing(cluster, say) as site, tempfile.TemporaryDirectory(prefix="overlayd-bench-") as folder:
        start = _start(site)
        found, backends = in_cluster.measure(site, wanted, pace, Path(folder), say)
    return {"start": start, "backends": backends, "places": {"cluster": found}}


def machine(base: str) -> dict[str, Any]:
    """The machine, by which reports are compared or not."""
    model = _MODEL.search(Path("/proc/cpuinfo").read_text())
    return {
        "cpus": os.cpu_count(),
        "model": model[1] if model else platform.machine(),
        "kernel": platform.release(),
        "docker": client().version()["Version"],
        "base": base,
    }


def commit() -> str:
    """The checkout's commit, and whether files differ from it."""
    argv = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


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

"""What the daemon costs among thousands of peers, and how long a hundred of them take that start at the same moment."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from overlayd.errors import OverlaydError
from tests.perf import outputs
from tests.perf.daemon_cost import idle, seconds_until_ready
from tests.perf.layout import MANY_FIGURES, alone
from tests.testbed.netns import namespaces
from tests.testbed.netns.fleet import Fleet, routed
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.polling import eventually

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PORT = 9000
# Longer than it takes to earn the credit of one change and what follows from it (host/pacing.py).
_APART_S = 1.3
_LONE = 9
_HERD_READY_S = 540.0
_FAILURES = (OverlaydError, AssertionError, OSError, subprocess.SubprocessError)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many peers there are, how many more come at once, and how many daemons start at once."""

    peers: int = 5000
    burst: int = 1000
    daemons: int = 100
    resync_s: float = 5


SCALE = Scale()


def measure(say: Callable[[str], None], *, repeat: int, idle_s: float, scale: Scale = SCALE) -> dict[str, Any]:
    """The figures of MANY_FIGURES, each with its values or the reason why there is none, and their conditions."""
    found: dict[str, Any] = {}
    for what, part in (
        (f"{scale.peers} peers", partial(_peers, repeat=repeat, idle_s=idle_s, scale=scale)),
        (f"{scale.daemons} daemons at once", partial(_herd, scale=scale)),
    ):
        say(f"namespaces: {what}")
        try:
            for key, values in part():
                found[key] = alone(values)
        except _FAILURES as error:
            say(f"{what}: {error}")
            found["reason"] = str(error).strip()[-500:]
    reason = {"reason": found.pop("reason", "not measured")}
    conditions = {**vars(scale), "backend": "vxlan", "firewall": "none", "load_before": round(os.getloadavg()[0], 1)}
    return {
        "many": {figure.key: found.get(figure.key, dict(reason)) for figure in MANY_FIGURES},
        "many_conditions": conditions,
    }


def _peers(*, repeat: int, idle_s: float, scale: Scale) -> Iterator[tuple[str, list[float]]]:
    with _lab() as lab:
        fleet, host = Fleet(lab), lab.host("a", start=False)
        host.settings = {"resync-s": scale.resync_s, "healthz-port": _PORT, "firewall": "none"}
        _ready_s(host)
        _settle()
        without = _memory_bytes(host)
        fleet.join(range(scale.peers))
        took, cpu = [], []
        for _ in range(repeat):
            host.stop()
            host.run("ip", "link", "delete", "overlay.1")
            took.append(_ready_s(host))
            cpu.append(_cpu_s(host))
        yield "many_from_nothing_s", took
        yield "many_from_nothing_cpu_s", cpu
        _settle()
        yield "many_bytes_per_peer", [(_memory_bytes(host) - without) / scale.peers]
        yield "many_idle_cpu_percent", [idle(_process(host), idle_s)["idle_cpu_percent"]["value"]["median"]]
        newcomer, more = [scale.peers], range(scale.peers, scale.peers + scale.burst)
        joins, leaves, repairs, bursts, all_cpu = [], [], [], [], []
        deletes = partial(host.run, "ip", "route", "delete", "10.0.0.0/24")
        for _ in range(_LONE):
            before = _cpu_s(host)
            joins.append(1000 * routed(host.namespace, partial(fleet.join, newcomer), 1))
            _settle()
            all_cpu.append(1000 * (_cpu_s(host) - before))
            leaves.append(1000 * routed(host.namespace, partial(fleet.leave, newcomer), 1, gone=True))
            _settle()
            repairs.append(1000 * routed(host.namespace, deletes, 1))
            _settle()
        yield "many_join_ms", joins
        yield "many_join_cpu_ms", all_cpu
        yield "many_leave_ms", leaves
        yield "many_repair_ms", repairs
        for _ in range(repeat):
            bursts.append(routed(host.namespace, partial(fleet.join, more), scale.burst))
            routed(host.namespace, partial(fleet.leave, more), scale.burst, gone=True)
            _settle()
        yield "many_burst_s", bursts
        yield "many_status_bytes", [float((host.run_dir / "status.json").stat().st_size)]
        yield "many_metrics_s", [_seconds(partial(namespaces.inside, host.namespace, _scrape)) for _ in range(repeat)]
        for command in ("status", "doctor"):
            yield f"many_{command}_s", [_seconds(partial(host.call, command)) for _ in range(repeat)]


def _herd(*, scale: Scale) -> Iterator[tuple[str, list[float]]]:
    with _lab() as lab:
        settings = {"resync-s": scale.resync_s, "firewall": "none"}
        hosts = [lab.host(f"h{number}", start=False, settings=settings) for number in range(scale.daemons)]
        began = time.monotonic()
        for host in hosts:
            host.start(ready=False)
        eventually("all are ready", lambda: all(map(_is_ready, hosts)), timeout_s=_HERD_READY_S)
        yield "herd_ready_s", [time.monotonic() - began]
        yield "herd_cpu_s", [sum(map(_cpu_s, hosts))]
        yield "herd_races_lost", [float(sum(host.log.read_text().count("another host was faster") for host in hosts))]


@contextmanager
def _lab() -> Iterator[Lab]:
    with (
        tempfile.TemporaryDirectory(prefix="overlayd-bench-") as name,
        laboratory(Path(name), {"Type": "vxlan"}) as lab,
    ):
        yield lab


def _ready_s(host: Host) -> float:
    before = host.launcher

    def start(notify_socket: str) -> None:
        host.launcher = ("env", f"NOTIFY_SOCKET={notify_socket}", *before)
        host.start(ready=False)

    try:
        return seconds_until_ready(start)
    finally:
        host.launcher = before


def _is_ready(host: Host) -> bool:
    return host.status().get("state") == "ready"


def _process(host: Host) -> Path:
    return Path(f"/proc/{host.status()['pid']}")


def _cpu_s(host: Host) -> float:
    return outputs.process_ticks((_process(host) / "stat").read_text()) / _TICKS_PER_S


def _memory_bytes(host: Host) -> int:
    return outputs.memory_bytes((_process(host) / "smaps_rollup").read_text())[1]


def _settle() -> None:
    threading.Event().wait(_APART_S)


def _seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _scrape() -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/metrics", timeout=30) as answer:
        answer.read()

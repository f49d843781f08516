"""The whole bench on real hosts, with the shortest measurements: every row has figures or a reason, and nothing stays.

What it measures on a busy machine says nothing, and no test asks for more than that it was measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tests.perf import history
from tests.perf.bench import bench
from tests.perf.compare import marked
from tests.perf.joining import PEERS
from tests.perf.layout import DAEMON_FIGURES, FIGURES
from tests.perf.measuring import ROOT, Pace
from tests.perf.wanted import BACKENDS, PARTS, PLACES
from tests.testbed.cluster import docker_engine
from tests.testbed.cluster.create import remove
from tests.testbed.cluster.description import CLUSTER_LABEL
from tests.testbed.polling import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NAME = "bench-test"
UNDERLAY = IPv4Network("198.18.32.0/24")
_SOON_S = 240.0


@pytest.fixture(scope="module")
def document(base: str) -> dict[str, Any]:
    said: list[str] = []
    # tests/kernel/test_bench_many.py has the other one.
    only = [part for part in PARTS if part not in ("builds", "many")]
    pace = Pace(repeat=1, flow_s=1)
    return bench(base, said.append, only=only, pace=pace, idle_s=1, name=NAME, underlay=UNDERLAY)


def left() -> list[str]:
    """Whatever of a bench is still there: parts of its cluster, and namespaces whose process has ended."""
    namespaces = [path.name for path in Path("/run/netns").glob(f"ovl-{os.getpid()}-*")]
    return docker_engine.names(f"{CLUSTER_LABEL}={NAME}") + namespaces


@pytest.mark.parametrize("place", PLACES)
def test_every_row_has_figures_or_a_reason(document: dict[str, Any], place: str) -> None:
    found = document["places"][place]
    assert set(found["subjects"]) == {*BACKENDS, *PEERS}
    for name, row in found["subjects"].items():
        if row["reason"] is None:
            assert set(row["figures"]) == {figure.key for figure in FIGURES}, name
            assert row["mtu_bytes"] >= 1280, name
        for key, figure in row["figures"].items():
            assert ("reason" in figure) != (figure.get("part", {}).get("median", 0) > 0), (name, key, figure)
    assert set(found["daemon"]) == {figure.key for figure in DAEMON_FIGURES}


@pytest.mark.parametrize("place", PLACES)
def test_what_any_machine_can_run_is_measured(document: dict[str, Any], place: str) -> None:
    found = document["places"][place]["subjects"]
    for name in ("vxlan", "host-gw", "udp"):
        assert found[name]["reason"] is None
        for key in ("tcp_1_flow_gbit_s", "udp_200_byte_packets_per_s", "tcp_round_trip_us", "connections_per_s"):
            assert "part" in found[name]["figures"][key], (name, found[name]["figures"][key])


def test_dockers_own_overlay_is_measured_beside_ours(document: dict[str, Any]) -> None:
    found = document["places"]["cluster"]["subjects"]["docker overlay"]
    assert found["reason"] is None
    assert "part" in found["figures"]["tcp_1_flow_gbit_s"]


@pytest.mark.parametrize("place", PLACES)
def test_the_daemon_is_measured(document: dict[str, Any], place: str) -> None:
    found = document["places"][place]["daemon"]
    assert all("value" in one for one in found.values()), found
    assert found["private_bytes"]["value"]["median"] > 1 << 20


def test_hosts_reach_each_other_in_the_matrix_of_each_backend(document: dict[str, Any]) -> None:
    pairs = [pair for found in document["backends"].values() for pair in found["pairs"]]
    assert pairs
    assert all(pair["ping"]["received"] for pair in pairs)


def test_a_doctored_report_before_leads_to_a_mark(document: dict[str, Any], tmp_path: Path) -> None:
    before = json.loads(json.dumps(document)) | {"when": "2000-01-01T00:00:00+00:00"}
    part = before["places"]["cluster"]["subjects"]["vxlan"]["figures"]["tcp_1_flow_gbit_s"]["part"]
    part["median"] *= 1.3
    history.keep(tmp_path / "bench", before)
    last, path = history.last(tmp_path, document) or (None, None)
    falls = marked(document, last, str(path))["falls"]
    assert [(one["place"], one["subject"], one["figure"]) for one in falls] == [
        ("cluster", "vxlan", "tcp_1_flow_gbit_s")
    ]


def test_nothing_of_it_is_left(document: dict[str, Any]) -> None:
    assert left() == []


@pytest.fixture
def child(base: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A bench of peers in a cluster as a process of its own, and what it says."""
    script = (
        "import sys; from ipaddress import IPv4Network; from tests.perf.bench import bench;"
        "bench(sys.argv[1], lambda text: print(text, flush=True), only=['cluster', 'peers'], backends=['vxlan'],"
        "name=sys.argv[2], underlay=IPv4Network(sys.argv[3]))"
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-c", script, base, NAME, str(UNDERLAY)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield started, log
    finally:
        started.kill()
        started.wait()
        remove(NAME)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_broken_off_in_the_middle_of_a_turn_it_leaves_nothing(
    child: tuple[subprocess.Popen[bytes], Path], number: signal.Signals
) -> None:
    started, log = child
    eventually("the first turn", lambda: "turn 1" in log.read_text() or started.poll() is not None, timeout_s=_SOON_S)
    assert started.poll() is None, log.read_text()
    programs = _children(started.pid)
    assert any("nebula" in words or "iperf3" in words for words in programs.values())
    os.kill(started.pid, number)
    assert started.wait(120) != 0
    assert [words for number, words in programs.items() if Path(f"/proc/{number}").exists()] == []
    assert left() == []


def _children(parent: int) -> dict[int, str]:
    """The processes that a process has started, and their command lines."""
    numbers = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return {int(number): Path(f"/proc/{number}/cmdline").read_text().replace("\0", " ") for number in numbers}

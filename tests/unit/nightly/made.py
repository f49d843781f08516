"""Results of nights for tests: JUnit by a real pytest on tiny files, figures of a bench, older nights."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.nightly import parts, runs
from tests.nightly.parts import Outcome
from tests.nightly.ratios import Ratio
from tests.nightly.results import Night, write_night
from tests.nightly.runs import FaultCost, Run
from tests.side_by_side import WITH_OUTPUT
from tests.testbed.records import Connection, Fault

ROOT = Path(__file__).resolve().parents[3]
TONIGHT = datetime(2026, 11, 30, 2, 17, tzinfo=UTC)
# A pytest of its own, without this checkout's settings and plugins.
ALONE = (
    "-c",
    "/dev/null",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:hypothesispytest",
    "--override-ini=junit_family=xunit1",
)

PLAIN = """
import pytest

def test_good():
    assert True

@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_bad(backend, record_property):
    record_property("logs", "build/clusters/test_bad")
    print("host1 sent 10 packets")
    assert backend == "vxlan", "host1 to host3: 4 of 10 lost"

def test_left_out():
    pytest.skip("this kernel has no wireguard")

@pytest.fixture
def broken():
    yield
    raise OSError("the teardown failed")

def test_teardown(broken):
    pass
"""
HOSTILE = r"""
import sys
import pytest

@pytest.mark.parametrize("text", [
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "\x1b[31mred\x1b[0m \x1b]8;;https://example.org\x07link\x1b]8;;\x07",
    "NUL \x00 and \x0b and \ufffe and \ud800",
    "</pre></details></body>{{ 7 * 7 }}{% raw %}",
])
def test_hostile(text, record_property):
    record_property("<b>name</b>", text)
    record_property("logs", text)
    print(text.encode("utf-8", "replace").decode())
    sys.stdout.flush()
    sys.stdout.buffer.write(b"\xff\xfe invalid \xc3\x28\n")
    raise AssertionError(text.encode("utf-8", "replace").decode())

def test_loud():
    for _ in range(10_000):
        print("loud " * 20)
    print("the very end")
    raise AssertionError("x" * 1_000_000)
"""


def junit(folder: Path, *sources: str, conftest: str = "") -> bytes:
    """The JUnit file that pytest writes for tests of these sources."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conftest.py").write_text(conftest)
    for number, source in enumerate(sources):
        (folder / f"test_number{number}.py").write_text(source)
    target = folder / "junit.xml"
    argv = [sys.executable, "-m", "pytest", *ALONE, *WITH_OUTPUT, f"--rootdir={folder}", f"--junitxml={target}"]
    subprocess.run([*argv, str(folder)], cwd=folder, capture_output=True, check=False, timeout=120)
    return target.read_bytes()


def recording(count: int = 3) -> str:
    """Tests that record connections and faults, as those of this project do."""
    hosts = [f"host{number}" for number in range(1, count + 1)]
    combinations = itertools.product(
        ("vxlan", "host-gw", "udp", "wireguard"), ("20.10.24", "28.5.2"), ("5.10.0-43", "6.1.0-41", "6.12.48")
    )
    connections = [
        Connection(source=a, target=b, backend=backend, docker=docker, kernel=kernel, sent=5, lost=lost)
        for backend, docker, kernel in combinations
        if (backend, docker) != ("udp", "28.5.2")
        for a, b in itertools.permutations(hosts, 2)
        for lost in [5 if (backend, kernel, b) == ("wireguard", "5.10.0-43", "host3") else 0]
    ]
    faults = [
        Fault(fault=what, backend=backend, sent=400, lost=lost, recovered_s=seconds)
        for backend in ("vxlan", "udp")
        for what, lost, seconds in (
            ("overlayd restarted", 0, 0.0),
            ("device deleted", 41, 0.41),
            ("etcd frozen", 2, 0.02),
        )
    ]
    properties = [(one.PROPERTY, one) for one in (*connections, *faults)]
    told: list[tuple[str, object]] = []
    for _, one in properties:
        one.record(lambda name, value: told.append((name, value)))
    return (
        f"TOLD = {told!r}\ndef test_all_pairs(record_property):\n    for one in TOLD:\n        record_property(*one)\n"
    )


def bench(factor: float = 1.0) -> dict[str, Any]:
    """Figures as the bench writes them, all ratios multiplied by a factor."""

    def spread(value: float) -> dict[str, float]:
        return {"median": value, "lowest": value * 0.93, "highest": value * 1.05, "count": 3}

    of = {"vxlan": 0.84, "host-gw": 0.97, "udp": 0.31}
    return {
        "machine": {"cpus": 2, "kernel": "6.18", "docker": "20.10.24", "base": "debian12-rpm"},
        "backends": {
            name: {
                "tcp_1": {"gbit_s": spread(8.5 * part), "part": spread(part * factor)},
                "tcp_4": {"gbit_s": spread(9.1 * part), "part": spread(part * 1.02 * factor)},
                "udp_200": {"part": spread(part * 0.7)},
                "mtu_bytes": 1450,
                "pairs": [{"source": "host1", "target": "host2", "ratio": part}, {"source": "host2", "ratio": part}],
            }
            for name, part in of.items()
        },
        "builds": {"from nothing": {"s": 214.2, "limit_s": 300}, "nothing changed": {"s": 2.4, "limit_s": 2}},
    }


def outcome(name: str, ended: str = parts.WELL, problem: str = "", seconds: float = 1234.0) -> Outcome:
    """How a part ended."""
    return Outcome(name=name, ended=ended, seconds=seconds, limit_s=3000, problem=problem)


def results(folder: Path, xml: bytes | None, figures: dict[str, Any] | None, *outcomes: Outcome, **more: Any) -> Path:
    """A folder with the results of a night."""
    folder.mkdir(parents=True, exist_ok=True)
    known = outcomes or (outcome("build"), outcome("tests", parts.FAILED, "it ended with status 1"), outcome("bench"))
    machine = ("Linux 6.18.0", "Docker 20.10.24", "2 processors")
    given: dict[str, Any] = {"when": TONIGHT, "commit": "0123456789ab", "machine": machine, "seconds": 4270.0} | more
    write_night(folder, Night(outcomes=known, **given))
    if xml is not None:
        (folder / "junit.xml").write_bytes(xml)
    if figures is not None:
        (folder / "bench.json").write_text(json.dumps(figures))
    return folder


def older(number: int, *not_passed: str, complete: bool = True, **more: Any) -> Run:
    """A night so many nights before tonight."""
    wobble = 1 + 0.03 * ((number * 7) % 5 - 2)
    medians = (("vxlan", 0.84), ("host-gw", 0.97), ("udp", 0.31))
    parts_of = {f"{name} · {what}": value for name, value in medians for what in ("tcp_1", "tcp_4")}
    cost = FaultCost(sent=400, lost=20, recovered_s=0.2)
    known: dict[str, Any] = {
        "when": TONIGHT - timedelta(days=number),
        "commit": f"{number:012x}",
        "well": not not_passed,
        "complete": complete,
        "counts": {"passed": 3100, **({"failed": len(not_passed)} if not_passed else {})},
        "not_passed": dict.fromkeys(not_passed, "failed"),
        "times_s": {"test_number1.py::test_all_pairs": 0.1},
        "parts_s": {"build": 60.0, "tests": 1200.0, "bench": 600.0},
        "ratios": {
            name: Ratio(median=value * wobble, lowest=value * wobble * 0.93, highest=value * wobble * 1.05)
            for name, value in parts_of.items()
        },
        "faults": {"test_number1.py::test_all_pairs: device deleted, vxlan": cost},
    }
    return Run(**(known | more))


def keep(folder: Path, *nights: Run) -> None:
    """Write older nights into a folder of results."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for one in nights:
        runs.keep(folder / "runs", one)

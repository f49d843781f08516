"""Somebody floods etcd with 100,000 bad leases and changes 1,000 of them a second: good hosts still work.

tests/flood.py writes them: nested in the hosts' own subnets, around them, elsewhere, malformed, huge.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from overlayd.host.pacing import FIRST_LOSS_REST_S, FREE_LOSSES
from overlayd.leases.followed_config import FIRST_WAIT_S, FREE_CHANGES
from tests.testbed.netns.lab import ETCD, NETWORK, SOURCES, Host, Lab, environment, laboratory
from tests.testbed.netns.traffic import pinging, pings
from tests.testbed.polling import eventually

PREFIX = "/coreos.com/network"
KEYS, CHANGES_A_SECOND = 100_000, 1000
MEASURED_S = 15.0
CPU_AT_MOST = 0.5
RSS_AT_MOST_MB = 150
STATUS_BYTES = 1_000_000
LINES_AT_MOST = 300
_TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A vxlan lab with hosts a and b."""
    with laboratory(tmp_path, {"Type": "vxlan"}) as lab:
        a, b = lab.host("a"), lab.host("b")
        eventually("b is reachable from a", lambda: pings(a, b))
        yield lab


@contextmanager
def flooded(lab: Lab, folder: Path) -> Iterator[None]:
    """Somebody writes all the keys, then changes them until the end of the block."""
    said = folder / "flood"
    words = [sys.executable, "-m", "tests.testbed.flood", ETCD, PREFIX, f"--keys={KEYS}", f"--rate={CHANGES_A_SECOND}"]
    words.append("--seconds=60")
    with (
        said.open("wb") as output,
        subprocess.Popen([*lab.inside, *words], stdout=output, stderr=output, env=_paths()) as one,
    ):
        try:
            eventually("etcd is full", lambda: "full" in said.read_text(), timeout_s=60)
            yield
            assert one.poll() is None, said.read_text()
        finally:
            one.kill()


def _paths() -> dict[str, str]:
    return {**environment(), "PYTHONPATH": f"{SOURCES}:{SOURCES.parent}"}


def cpu_s(host: Host) -> float:
    """The processor time that the daemon used so far: utime and stime of proc(5)."""
    fields = Path(f"/proc/{host.status()['pid']}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(host: Host) -> float:
    """The daemon's largest resident set so far."""
    lines = Path(f"/proc/{host.status()['pid']}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def lines(host: Host) -> int:
    """How many lines the log has without those of --verbose."""
    return sum(" debug " not in line for line in host.log.read_text().splitlines())


def revision(lab: Lab) -> int:
    said = lab.etcdctl("endpoint", "status", "--write-out=fields")
    return next(int(line.split()[-1]) for line in said.splitlines() if line.startswith('"Revision"'))


def test_a_flood_of_bad_leases_leaves_good_hosts_at_work(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    a, b = lab.hosts
    before = {host.name: lines(host) for host in (a, b)}
    with flooded(lab, tmp_path):
        # The first reading of all keys is not measured.
        eventually("a has seen them", lambda: a.status()["etcd_revision"] > 1000, timeout_s=30)
        eventually("b has seen them", lambda: b.status()["etcd_revision"] > 1000, timeout_s=30)
        began, revisions = time.monotonic(), revision(lab)
        used = {host.name: cpu_s(host) for host in (a, b)}
        with pinging(a, b, interval_s=0.1) as there, pinging(b, a, interval_s=0.1) as back:
            threading.Event().wait(MEASURED_S)
        took_s = time.monotonic() - began
        figures = {
            "changes a second": (revision(lab) - revisions) / took_s,
            **{f"CPU of {host.name}": (cpu_s(host) - used[host.name]) / took_s for host in (a, b)},
            **{f"MB of {host.name}": rss_mb(host) for host in (a, b)},
            **{f"lines of {host.name}": lines(host) - before[host.name] for host in (a, b)},
        }
        for name, figure in figures.items():
            record_property(name, figure)
        print(figures)  # noqa: T201
        for way, losses in (("a to b", there), ("b to a", back)):
            losses.fault(f"etcd flooded with bad leases, {way}", "vxlan").record(record_property)
        assert (there.lost, back.lost) == (0, 0)
        for host in (a, b):
            assert host.status()["state"] == "ready"
            assert host.status()["etcd_connected"]
            assert (cpu_s(host) - used[host.name]) / took_s < CPU_AT_MOST, figures
            assert rss_mb(host) < RSS_AT_MOST_MB, figures
            assert lines(host) - before[host.name] < LINES_AT_MOST, figures
        assert len(a.status()["skipped"]) < 100
        assert (a.run_dir / "status.json").stat().st_size < STATUS_BYTES


@pytest.mark.slow
def test_a_config_that_changes_all_the_time_does_not_restart_the_data_path_each_time(lab: Lab) -> None:
    a, b = lab.hosts
    configs = [json.dumps({"Network": str(NETWORK), "Backend": {"Type": "vxlan", **more}}) for more in ({}, {"VNI": 7})]
    words = [
        sys.executable,
        "-m",
        "tests.testbed.flood",
        ETCD,
        PREFIX,
        "--configs",
        *configs,
        "--rate=100",
        "--seconds=60",
    ]
    with subprocess.Popen([*lab.inside, *words], env=_paths()) as writer:
        try:
            for host in (a, b):
                eventually(f"{host.name} warns", partial(warns, host), timeout_s=40)
            threading.Event().wait(3)
        finally:
            writer.kill()
    for host in (a, b):
        assert 0 < host.log.read_text().count("the network config changed") <= FREE_CHANGES
        assert host.status()["state"] == "ready"
        assert lines(host) < LINES_AT_MOST
    # Now the config stays as it is: the first one.
    lab.etcdctl("put", f"{PREFIX}/config", configs[0])
    eventually("b is reachable from a", lambda: pings(a, b), timeout_s=FIRST_WAIT_S + 20)
    eventually("a follows it", lambda: "overlay.1" in a.run("ip", "-br", "link"))
    eventually("no more is said", lambda: not warns(a), timeout_s=40)


def warns(host: Host) -> bool:
    return f"changed {FREE_CHANGES} times within an hour" in str(host.status()["warnings"])


def test_a_thief_of_every_subnet_does_not_move_a_host_each_time(lab: Lab) -> None:
    a, b = lab.hosts
    thief = '{"PublicIP":"198.18.1.66","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:66"}}'
    stolen = set[str]()

    def steals() -> bool:
        """Steal what a holds; whether it has given up for a while."""
        for key in lab.etcdctl("get", "--prefix", "--keys-only", f"{PREFIX}/subnets/").split():
            held = key not in stolen and f'"{a.address}"' in lab.etcdctl("get", "--print-value-only", key)
            if held:
                lab.etcdctl("put", key, thief)
                stolen.add(key)
        return "lost too often" in a.log.read_text()

    eventually("a gives up for a while", steals)
    for _ in range(5):
        steals()
    assert a.log.read_text().count("LEASE LOST") == FREE_LOSSES + 1
    assert a.status()["state"] == "waiting"
    eventually("a has a subnet again", lambda: a.status()["state"] == "ready", timeout_s=FIRST_LOSS_REST_S + 15)
    assert a.stop() == 0
    assert b.status()["state"] == "ready"

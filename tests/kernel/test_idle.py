"""A daemon that nobody gives work sleeps: its wake-ups and its reads of files are counted by the kernel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.netns.lab import Lab, laboratory
from tests.testbed.polling import eventually

RESYNC_S = 1.0
WATCHED_S = 12.0
# A thread of gRPC's wakes five times a second (grpc/_cython, `_next`); by its Python alone it would be ten times.
WAKES_A_SECOND = 7.0
# read(2) and its like in a look: kernel settings and counters, of a host with one peer; docker's files are not among
# them. With docker's files and the names of all processes it was four hundred.
READS_IN_A_LOOK = 60.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts that know each other, and have been so for a moment."""
    with laboratory(tmp_path_factory.mktemp("idle"), {"Type": "vxlan"}) as lab:
        a, _b = (lab.host(name, settings={"resync-s": RESYNC_S}) for name in "ab")
        eventually("a container is probed", lambda: a.status().get("probed_from") is not None)
        yield lab


def wakes(pid: int) -> dict[int, tuple[str, int]]:
    """Of each thread, its name and how often it has gone to sleep (proc_pid_status(5): voluntary_ctxt_switches)."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.partition(":")[::2] for line in (task / "status").read_text().splitlines())
        found[int(task.name)] = (fields["Name"].strip(), int(fields["voluntary_ctxt_switches"]))
    return found


def reads(pid: int) -> int:
    """How many reads a process has made (proc_pid_io(5): syscr)."""
    fields = dict(line.partition(":")[::2] for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["syscr"])


def test_no_thread_of_an_idle_daemon_wakes_all_the_time_and_a_look_reads_little(lab: Lab) -> None:
    pid = lab.hosts[0].status()["pid"]
    # Longer than the first looks, after each of which there may be news.
    threading.Event().wait(5)
    before, reads_before = wakes(pid), reads(pid)
    threading.Event().wait(WATCHED_S)
    after, reads_after = wakes(pid), reads(pid)
    a_second = {
        f"{name} {tid}": (count - before[tid][1]) / WATCHED_S for tid, (name, count) in after.items() if tid in before
    }
    python = {name: count for name, count in a_second.items() if not name.startswith(("event_engine", str(pid)))}
    # The main thread looks every second, and sleeps a few times in each look.
    python.pop(next(name for name in python if name.endswith(f" {pid}")))
    assert max(python.values()) < WAKES_A_SECOND, a_second
    assert (reads_after - reads_before) / (WATCHED_S / RESYNC_S) < READS_IN_A_LOOK

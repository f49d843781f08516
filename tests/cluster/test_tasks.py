"""`invoke cluster.…` as a user runs it: a failed run leaves nothing, and a second run changes nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from overlayd.errors import OverlaydError
from tests.testbed.cluster import docker_engine, health
from tests.testbed.cluster.create import ROOT, create, remove
from tests.testbed.cluster.description import CLUSTER_LABEL, Cluster
from tests.testbed.cluster.images import image_of
from tests.testbed.cluster.invoked import interrupted, invoke
from tests.testbed.cluster.name_lock import name_locked
from tests.testbed.cluster.site import ClusterSite, find
from tests.testbed.polling import eventually

_NAME = "test-tasks"
# Tests with the shared cluster are in another run of pytest, beside the others: they have a name of their own.
_REFUSED = "test-refused"
_UNDERLAY = IPv4Network("198.18.43.0/24")
CGROUP_V2 = Path("/sys/fs/cgroup/cgroup.controllers")


def _left(name: str) -> list[str]:
    return docker_engine.names(f"{CLUSTER_LABEL}={name}")


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    name = _REFUSED if "site" in request.fixturenames else _NAME
    remove(name)
    yield
    left = _left(name)
    remove(name)
    assert not left


@pytest.mark.skipif(
    os.geteuid() != 0 or CGROUP_V2.exists(), reason="only root can hide the v2 half, and where v2 is all there is no v1"
)
@pytest.mark.parametrize("base_of_v2", ["centos-stream10", "debian13-rpm", "debian-testing-rpm"])
def test_a_base_whose_hosts_do_not_boot_here_is_refused_before_anything_is_made(base_of_v2: str) -> None:
    words = [sys.executable, "-m", "invoke", "cluster.up", "--name", _NAME, "--base", base_of_v2]
    # A machine with cgroup v1 alone: the v2 half of a hybrid is hidden from this process.
    hidden = "[ ! -e /sys/fs/cgroup/unified ] || mount -t tmpfs tmpfs /sys/fs/cgroup/unified"
    argv = ["unshare", "--mount", "sh", "-euc", f'{hidden}; exec "$@"', "sh", *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"hosts of {base_of_v2} cannot be containers here: this machine has cgroup v1" in done.stderr
    assert f"invoke cluster.up --machines --base {base_of_v2}" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert not _left(_NAME)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_up_removes_what_it_made(base: str, number: signal.Signals) -> None:
    script = (
        "from ipaddress import IPv4Network\n"
        "from tests.testbed.cluster.create import create\n"
        "from tests.testbed.cluster.description import Cluster\n"
        f"create(Cluster(name={_NAME!r}, base={base!r}, underlay=IPv4Network({str(_UNDERLAY)!r})), print)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}"}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually("a host was made", lambda: any("-host" in found for found in _left(_NAME)), timeout_s=30)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in said
    assert process.returncode != 0


def test_what_a_killed_up_made_is_removed_by_a_process_that_outlives_it(base: str) -> None:
    up = ("cluster.up", "--name", _NAME, "--hosts", "1", "--base", base, "--underlay", str(_UNDERLAY))
    status, said = interrupted(
        *up, when=lambda: any("-host" in found for found in _left(_NAME)), by=signal.SIGKILL, begins_s=60
    )
    assert status == -signal.SIGKILL
    # Its standard error was the guard's too, and is closed when that has ended.
    assert said.endswith(f"cluster {_NAME} is removed: the process that made it was killed\n")
    assert not _left(_NAME)


def test_a_missing_image_is_reported_before_anything_is_made() -> None:
    with pytest.raises(OverlaydError, match=r"overlayd/host:no-such-base is not there\n  build it: invoke build-all"):
        create(Cluster(name=_NAME, base="no-such-base", underlay=_UNDERLAY), lambda _text: None)


def test_an_underlay_in_use_is_reported_with_its_holder_and_nothing_is_left(base: str, site: ClusterSite) -> None:
    taken = site.cluster.underlay
    said = f"underlay {taken} is taken: Docker network {site.cluster.docker_network} of the cluster {site.cluster.name}"
    with pytest.raises(OverlaydError, match=rf"(?s){re.escape(said)} has {taken}\n  a free one: --underlay 198\.19\."):
        create(Cluster(name=_REFUSED, base=base, underlay=taken), lambda _text: None)
    done = invoke("cluster.up", "--name", _REFUSED, "--underlay", str(taken))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {said}")


def test_two_ups_at_once_make_one_cluster_and_another_underlay_makes_it_anew(base: str) -> None:
    up = ["cluster.up", "--name", _NAME, "--hosts", "1", "--base", base, "--underlay"]
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: invoke(*up, str(_UNDERLAY)), range(2)))
    assert [done.returncode for done in both] == [0, 0], both
    first, second = sorted(both, key=lambda done: "is up and well" in done.stdout)
    assert "probe containers: " in first.stdout
    assert second.stdout == f"cluster {_NAME} is up and well\n"
    [waited] = [done.stderr for done in both if done.stderr]
    assert re.fullmatch(rf"cluster {_NAME}: waiting for process \d+ \(.*cluster\.up .*\) to end\n", waited)

    # Without --underlay the cluster keeps its subnet.
    kept = invoke(*up[:-1])
    assert kept.stdout == f"cluster {_NAME} is up and well\n"
    moved = invoke(*up, "198.18.44.0/28")
    assert (
        f"cluster {_NAME} is made anew: it was made from another description: underlay was {_UNDERLAY}" in moved.stdout
    )
    found = find(_NAME)
    assert found is not None
    assert found.hosts[0].address == IPv4Address("198.18.44.11")
    # A host's interface is as its description says, and its image has the ID.
    assert found.hosts[0].container.attrs["Image"] == found.hosts[0].container.attrs["Config"]["Image"]
    assert invoke("cluster.down", "--name", _NAME).returncode == 0


def test_ctrl_c_while_waiting_for_another_process_causes_no_traceback() -> None:
    with name_locked(_NAME):
        status, said = interrupted(
            "cluster.down", "--name", _NAME, when=lambda: _waiting(os.getpid()), by=signal.SIGINT
        )
    assert status == 130
    assert said.splitlines()[1:] == ["stopped; unfinished results are removed"]


def _waiting(holder: int) -> bool:
    """Whether a process waits for a lock of another: proc_locks(5) lists it below the holder's line, with `->`."""
    lines = Path("/proc/locks").read_text().splitlines()
    numbers = {line.split()[0] for line in lines if "->" not in line and line.split()[4] == str(holder)}
    return any("->" in line and line.split()[0] in numbers for line in lines)


def test_running_cluster_is_recognised_by_its_labels(site: ClusterSite) -> None:
    found = find(site.cluster.name)
    assert found is not None
    assert found.cluster.underlay == site.cluster.underlay
    assert sorted(found.machines) == sorted(site.machines)
    assert health.difference(found, found.cluster) is None
    more = Cluster(**{**vars(found.cluster), "hosts": 4})
    assert health.difference(found, more) == "it was made from another description: hosts was 3"


def test_cluster_that_lost_a_daemon_is_not_well(site: ClusterSite) -> None:
    found = find(site.cluster.name)
    assert found is not None
    machine = found.hosts[0]
    machine.run("systemctl", "stop", "overlayd")
    try:
        assert "overlayd is not ready" in str(health.difference(found, found.cluster))
    finally:
        machine.run("systemctl", "start", "overlayd")


def test_newest_base_is_one_that_is_built() -> None:
    assert image_of("host", docker_engine.newest_base())

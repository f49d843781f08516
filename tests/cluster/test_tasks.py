"""`invoke cluster.…` as a user runs it: nothing stays behind, and a second time changes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from overlayd.errors import OverlaydError
from tests.cluster import docker_engine, health
from tests.cluster.create import ROOT, create, remove
from tests.cluster.description import CLUSTER_LABEL, Cluster
from tests.cluster.site import Site, find
from tests.polling import eventually

_NAME = "test-tasks"
_UNDERLAY = IPv4Network("198.18.42.0/24")


def _left(name: str) -> list[str]:
    return docker_engine.names(f"{CLUSTER_LABEL}={name}")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    remove(_NAME)
    yield
    left = _left(_NAME)
    remove(_NAME)
    assert not left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_up_removes_what_it_made(base: str, number: signal.Signals) -> None:
    script = (
        "from ipaddress import IPv4Network\n"
        "from tests.cluster.create import create\n"
        "from tests.cluster.description import Cluster\n"
        f"create(Cluster(name={_NAME!r}, base={base!r}, underlay=IPv4Network({str(_UNDERLAY)!r})), print)\n"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}", "PATH": "/usr/bin:/bin"}
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


def test_missing_image_is_told_before_anything_is_made() -> None:
    with pytest.raises(OverlaydError, match=r"overlayd/host:no-such-base is not there\n  build it: invoke build-all"):
        create(Cluster(name=_NAME, base="no-such-base", underlay=_UNDERLAY), lambda _text: None)


def test_underlay_in_use_is_told_and_leaves_nothing(base: str, site: Site) -> None:
    with pytest.raises(OverlaydError, match=r"another cluster may use this underlay"):
        create(Cluster(name=_NAME, base=base, underlay=site.cluster.underlay), lambda _text: None)


def test_running_cluster_is_recognised_by_its_labels(site: Site) -> None:
    found = find(site.cluster.name)
    assert found is not None
    assert found.cluster.underlay == site.cluster.underlay
    assert sorted(found.machines) == sorted(site.machines)
    assert health.difference(found, found.cluster) is None
    more = Cluster(**{**vars(found.cluster), "hosts": 4})
    assert health.difference(found, more) == "it was made from another description"


def test_cluster_that_lost_a_daemon_is_not_well(site: Site) -> None:
    found = find(site.cluster.name)
    assert found is not None
    machine = found.hosts[0]
    machine.run("systemctl", "stop", "overlayd")
    try:
        assert "overlayd is not ready" in str(health.difference(found, found.cluster))
    finally:
        machine.run("systemctl", "start", "overlayd")


def test_newest_base_is_one_that_is_built() -> None:
    assert docker_engine.image_id(f"overlayd/host:{docker_engine.newest_base()}")

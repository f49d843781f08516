"""Hosts start, restart and wait for etcd; docker starts after overlayd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from overlayd.errors import CommandFailed
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.measure import ping
from tests.testbed.cluster.site import ClusterSite, wait_for_probes
from tests.testbed.cluster.steps import hosts, leases, probe_image, probes
from tests.testbed.polling import eventually


@pytest.fixture
def etcd_paused(site: ClusterSite) -> Iterator[ClusterSite]:
    """Pause etcd until the end of the test, or until the test unpauses it."""
    assert site.etcd is not None
    site.etcd.pause()
    try:
        yield site
    finally:
        site.etcd.reload()
        if site.etcd.status == "paused":
            site.etcd.unpause()


@pytest.fixture
def newcomer(etcd_paused: ClusterSite) -> Iterator[Machine]:
    """A fourth host, started while etcd is paused."""
    machine = hosts.start_one(etcd_paused, "host4")
    etcd_paused.machines[machine.name] = machine
    try:
        yield machine
    finally:
        hosts.remove_one(etcd_paused.machines.pop(machine.name))


def _states(machine: Machine) -> tuple[str, str]:
    try:
        # Its exit status says the same.
        words = machine.shell("systemctl is-active overlayd docker || true").split()
    except CommandFailed:
        return "", ""
    return (words[0], words[1]) if len(words) == 2 else ("", "")


def _waits(machine: Machine) -> bool:
    try:
        return _states(machine)[0] == "activating" and machine.status()["state"] == "waiting"
    except CommandFailed:
        return False


def test_docker_waits_for_the_lease(etcd_paused: ClusterSite, newcomer: Machine, a: Machine, b: Machine) -> None:
    eventually("overlayd waits for etcd", lambda: _waits(newcomer), timeout_s=60)
    assert _states(newcomer) == ("activating", "inactive")
    # While etcd is away, nothing changes for hosts that hold a lease.
    assert ping(a.in_probe, b.probe_address()).lost == 0

    assert etcd_paused.etcd is not None
    etcd_paused.etcd.unpause()
    leases.wait_for(newcomer)
    ready = int(newcomer.unit("overlayd", "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])
    began = int(newcomer.unit("docker", "ExecMainStartTimestampMonotonic")["ExecMainStartTimestampMonotonic"])
    assert 0 < ready <= began

    probes.start_one(newcomer, probe_image.load(newcomer))
    target = newcomer.probe_address()
    eventually("the newcomer's container is reached", lambda: ping(a.in_probe, target).lost == 0, timeout_s=15)


def test_restarted_host_keeps_its_subnet(site: ClusterSite, a: Machine, b: Machine) -> None:
    before = b.bip()
    b.container.restart(timeout=15)
    leases.wait_for(b)
    wait_for_probes(b)
    assert b.bip() == before
    assert b.run("systemctl", "is-system-running", "--wait").strip() == "running"
    target = b.probe_address()
    assert target in before.network
    eventually("its container is reached again", lambda: ping(a.in_probe, target).lost == 0, timeout_s=15)


def test_no_unit_failed(site: ClusterSite) -> None:
    failed = {
        machine.name: machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend")
        for machine in site.hosts
    }
    assert not any(failed.values()), failed

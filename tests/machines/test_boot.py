"""Two machines boot from the disk image, with a kernel of their own, and are hosts of one overlay."""

from __future__ import annotations

import json

import pytest

from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.virtual_machine import VirtualMachine

# Three minutes of two processors alone, and ten beside all other tests, which it slows down.
pytestmark = pytest.mark.slow


def test_two_machines_boot_lease_and_their_containers_reach_each_other(
    site: ClusterSite, a: VirtualMachine, b: VirtualMachine
) -> None:
    for machine in (a, b):
        _is_a_host(machine)
    assert a.bip().network != b.bip().network
    for source, target in site.pairs:
        assert source.in_probe("ping", "-n", "-c", "2", "-W", "5", str(target.probe_address())).count("bytes from") == 2


def _is_a_host(machine: Machine) -> None:
    """Ready, docker on its lease, cgroup v2 and nothing failed: as on a host of metal."""
    status = machine.status()
    assert (status["state"], status["problem"]) == ("ready", None)
    assert str(machine.bip()) in machine.run("ip", "-4", "-oneline", "address", "show", "docker0")
    assert machine.run("stat", "-f", "-c", "%T", "/sys/fs/cgroup").strip() == "cgroup2fs"
    assert machine.run("cat", "/proc/1/comm").strip() == "systemd"
    assert machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    findings = json.loads(machine.shell("overlayd doctor --json || true"))
    assert [found for found in findings["findings"] if found["state"] == "problem"] == []

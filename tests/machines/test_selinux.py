"""SELinux enforcing with Debian's own policy, and no module of ours: nothing of overlayd is denied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from tests.machines.making import MakesMachines
from tests.testbed.cluster import additions, selinux
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.recovery import answers, machines_of
from tests.testbed.cluster.selinux import Denial
from tests.testbed.cluster.site import ClusterSite, wait_for_probes
from tests.testbed.cluster.steps.leases import wait_for
from tests.testbed.cluster.virtual_machine import VirtualMachine
from tests.testbed.polling import eventually

pytestmark = [pytest.mark.slow, pytest.mark.setup("selinux")]

UNDERLAY = IPv4Network("198.18.57.0/24")
# Domains of programs at boot that neither the daemon nor its commands start; what the policy denies these is Debian's.
# networkd's: it may not answer networkctl, which the doctor asks too.
OTHERS = frozenset({"fsadm_t", "getty_t", "systemd_networkd_t", "systemd_tmpfiles_t", "udev_t"})
# Where our files and sockets are.
OURS = ("/usr/lib/overlayd", "/usr/bin/overlayd", "/var/lib/overlayd", "/etc/sysconfig/overlayd")


@pytest.fixture(scope="module")
def site(machines: MakesMachines) -> Iterator[ClusterSite]:
    """Two machines that boot with SELinux enforcing."""
    cluster = Cluster(
        name="se",
        base="debian12-rpm",
        hosts=2,
        underlay=UNDERLAY,
        machines=True,
        kernel="6.1",
        kernel_options=additions.ENFORCING,
    )
    with machines(cluster, suite="bookworm") as found:
        yield found


def _denied(machine: VirtualMachine) -> list[Denial]:
    return sorted(denial for denial in selinux.denied(machine) if denial.source not in OTHERS)


def test_machines_boot_enforcing_and_containers_reach_each_other(site: ClusterSite) -> None:
    a, b = machines_of(site)
    for machine in (a, b):
        assert selinux.mode(machine) == "Enforcing"
        assert (machine.status()["state"], machine.status()["problem"]) == ("ready", None)
        assert machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    assert answers(a, b.probe_address())
    assert answers(b, a.probe_address())


def test_the_program_and_its_unit_have_labels_of_the_policy(a: VirtualMachine) -> None:
    program = a.run("readlink", "-f", "/usr/bin/overlayd").strip()
    assert ":bin_t:" in a.run("stat", "--format=%C", program)
    assert ":unlabeled_t:" not in selinux.context(a, "overlayd")
    assert a.shell(f"restorecon -n -v -R {' '.join(OURS)}") == ""


def test_nothing_is_denied_when_it_starts_serves_is_asked_and_starts_again(site: ClusterSite) -> None:
    for machine in machines_of(site):
        machine.shell("overlayd doctor --json >/dev/null || test $? = 1; overlayd status --json >/dev/null")
        machine.run("systemctl", "restart", "overlayd")
        wait_for(machine)
        eventually("its container asks", machine.asks_from_probe, timeout_s=machine.patience_s)
        assert _denied(machine) == []


def test_doctor_finds_no_problem(site: ClusterSite) -> None:
    for machine in machines_of(site):
        findings = json.loads(machine.shell("overlayd doctor --json || true"))["findings"]
        assert [found for found in findings if found["state"] == "problem"] == []


def test_cleanup_removes_all_and_a_start_brings_it_back(site: ClusterSite) -> None:
    a, b = machines_of(site)
    a.shell("systemctl stop overlayd && overlayd cleanup")
    assert not a.succeeds("ip", "link", "show", "overlay.1")
    a.run("systemctl", "start", "overlayd")
    wait_for(a)
    eventually("packets go again", lambda: answers(b, a.probe_address()), timeout_s=a.patience_s)
    assert _denied(a) == []


def test_every_backend_is_served_and_nothing_is_denied(site: ClusterSite) -> None:
    a, b = machines_of(site)
    for backend in ("wireguard", "ipip", "host-gw", "udp"):
        site.use(backend)
        for machine in (a, b):
            wait_for_probes(machine)
        eventually(
            f"packets go by {backend}",
            lambda: answers(a, b.probe_address()) and answers(b, a.probe_address()),
            timeout_s=a.patience_s,
        )
        assert [(backend, denial) for machine in (a, b) for denial in _denied(machine)] == []


def test_a_denial_would_have_been_seen(a: VirtualMachine) -> None:
    # Else the tests above would pass where nothing is logged. No shell may become a getty.
    a.shell("runcon -r system_r -t getty_t -- true || true")
    assert "runcon" in {denial.command for denial in _denied(a)}

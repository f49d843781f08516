"""SELinux enforcing with Debian's own policy, and no module of ours: nothing of overlayd is denied.

The machines boot with it twice: first without overlayd, for what the distribution denies its own programs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tests.testbed.cluster import selinux
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.recovery import answers, machines_of
from tests.testbed.cluster.selinux import Denial
from tests.testbed.cluster.site import ClusterSite, wait_for_probes
from tests.testbed.cluster.steps.leases import wait_for
from tests.testbed.cluster.virtual_machine import VirtualMachine
from tests.testbed.polling import eventually

pytestmark = pytest.mark.slow

# Where our files and sockets are.
OURS = ("/usr/lib/overlayd", "/usr/bin/overlayd", "/var/lib/overlayd", "/etc/sysconfig/overlayd")


@dataclass(frozen=True, kw_only=True)
class Enforcing:
    """The two machines, and what each was denied in a boot without overlayd, by its name."""

    site: ClusterSite
    without: dict[str, frozenset[Denial]]

    def more(self, machine: VirtualMachine) -> list[Denial]:
        """What a machine was denied since its boot that it was not denied without overlayd."""
        known = {_kind(denial) for denial in self.without[machine.name]}
        return sorted(denial for denial in selinux.denied(machine) if _kind(denial) not in known)


def _kind(denial: Denial) -> tuple[str, ...]:
    return (denial.command, denial.source, denial.target, denial.kind, denial.permissions)


@pytest.fixture(scope="module")
def enforcing(owned: ClusterSite) -> Enforcing:
    """The two machines, labelled and booted with SELinux enforcing."""
    without: dict[str, frozenset[Denial]] = {}

    def begin(machine: VirtualMachine) -> None:
        selinux.label(machine)
        machine.shell("systemctl enable auditd && systemctl disable overlayd")
        selinux.switch_on(machine)
        eventually(f"docker runs on {machine.name}", lambda: _active(machine, "docker"), timeout_s=machine.patience_s)
        without[machine.name] = frozenset(selinux.denied(machine))
        machine.shell("systemctl enable overlayd && rm -f /var/log/audit/audit.log && sync")
        machine.reboot()
        wait_for(machine)
        wait_for_probes(machine)

    each(begin, machines_of(owned))
    return Enforcing(site=owned, without=without)


def _active(machine: Machine, unit: str) -> bool:
    return machine.succeeds("systemctl", "is-active", unit)


def test_machines_boot_enforcing_and_containers_reach_each_other(enforcing: Enforcing) -> None:
    a, b = machines_of(enforcing.site)
    for machine in (a, b):
        assert selinux.mode(machine) == "Enforcing"
        assert (machine.status()["state"], machine.status()["problem"]) == ("ready", None)
        assert machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    assert answers(a, b.probe_address())
    assert answers(b, a.probe_address())


def test_the_program_and_its_unit_have_labels_of_the_policy(enforcing: Enforcing) -> None:
    a, _ = machines_of(enforcing.site)
    program = a.output_of("readlink", "-f", "/usr/bin/overlayd").strip()
    assert ":bin_t:" in a.output_of("stat", "--format=%C", program)
    assert ":unlabeled_t:" not in selinux.context(a, "overlayd")
    assert a.shell(f"restorecon -n -v -R {' '.join(OURS)}") == ""


def test_nothing_is_denied_that_is_not_denied_without_overlayd(enforcing: Enforcing) -> None:
    for machine in machines_of(enforcing.site):
        machine.shell("overlayd doctor --json >/dev/null || test $? = 1; overlayd status --json >/dev/null")
        machine.run("systemctl", "restart", "overlayd")
        wait_for(machine)
        assert enforcing.more(machine) == []


def test_doctor_finds_no_problem(enforcing: Enforcing) -> None:
    for machine in machines_of(enforcing.site):
        findings = json.loads(machine.shell("overlayd doctor --json || true"))["findings"]
        assert [found for found in findings if found["state"] == "problem"] == []


def test_cleanup_removes_all_and_a_start_brings_it_back(enforcing: Enforcing) -> None:
    a, b = machines_of(enforcing.site)
    a.shell("systemctl stop overlayd && overlayd cleanup")
    assert not a.succeeds("ip", "link", "show", "overlay.1")
    a.run("systemctl", "start", "overlayd")
    wait_for(a)
    eventually("packets go again", lambda: answers(b, a.probe_address()), timeout_s=a.patience_s)
    assert enforcing.more(a) == []

"""With Debian's firewalld on the hosts, containers reach each other after all that it does, and a published port works.

It runs before docker starts, as on a host that is switched on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.cluster import owners
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.recovery import BACK_WITHIN_S, machines_of, recovers
from tests.testbed.cluster.site import ClusterSite, wait_for_probes
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

pytestmark = pytest.mark.slow

FAULTS = {
    "reload": "firewall-cmd --reload",
    "restart": "systemctl restart firewalld",
    "complete-reload": "firewall-cmd --complete-reload",
    # Nothing goes in or out meanwhile, ssh neither.
    "panic": "firewall-cmd --panic-on; sleep 5; firewall-cmd --panic-off",
}
PORT = 5401
_NAME = "published"


@pytest.fixture(scope="module")
def guarded(owned: ClusterSite) -> Iterator[ClusterSite]:
    """The two machines with firewalld, and on the first a container with a published port."""

    def guard(machine: Machine) -> None:
        machine.shell("systemctl enable --now firewalld && systemctl restart docker")
        wait_for_probes(machine)

    def unguard(machine: Machine) -> None:
        machine.shell("systemctl disable --now firewalld && systemctl restart docker")
        wait_for_probes(machine)

    each(guard, owned.hosts)
    a, _ = machines_of(owned)
    image = a.run("docker", "inspect", "--format={{.Image}}", "probe").strip()
    a.run(*("docker", "run", "--detach", "--name", _NAME, f"--publish={PORT}:5201", image, "iperf3", "--server"))
    yield owned
    a.run("docker", "rm", "--force", _NAME)
    each(unguard, owned.hosts)


def port_answers(site: ClusterSite) -> bool:
    """Whether the other host reaches the published port."""
    a, b = machines_of(site)
    return b.succeeds("timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{a.address}/{PORT}")


@pytest.mark.parametrize("fault", FAULTS)
def test_packets_flow_after_it_and_a_published_port_works_as_before(
    guarded: ClusterSite, fault: str, record_property: Recorder
) -> None:
    a, _ = machines_of(guarded)
    eventually("the published port answers", lambda: port_answers(guarded), timeout_s=BACK_WITHIN_S)
    with recovers(f"firewalld: {fault}", guarded, record_property):
        owners.in_background(a, f"{FAULTS[fault]}; touch /run/fault-is-over")
        eventually("the fault is over", lambda: a.succeeds("rm", "/run/fault-is-over"), timeout_s=a.patience_s)
    eventually("the published port answers", lambda: port_answers(guarded), timeout_s=BACK_WITHIN_S)
    assert a.run("firewall-cmd", "--state").strip() == "running"

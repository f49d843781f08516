"""Power cuts: of all machines and etcd at once, and while the daemon starts. What was leased stays leased."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network

import pytest

from tests.machines.flows import has_reached
from tests.machines.making import MakesMachines
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.measure import ping
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite, wait_for_probes
from tests.testbed.cluster.steps import leases
from tests.testbed.cluster.virtual_machine import VirtualMachine
from tests.testbed.polling import eventually
from tests.testbed.records import Fault, Recorder

pytestmark = [pytest.mark.slow, pytest.mark.setup("power")]

NAME = "knpower"
UNDERLAY = IPv4Network("198.18.52.0/24")
STATE = "/var/lib/overlayd"
_BACK_S = 300.0


@pytest.fixture(scope="module")
def _cluster(base: str, machines: MakesMachines) -> Iterator[ClusterSite]:
    with machines(Cluster(name=NAME, base=base, hosts=2, underlay=UNDERLAY, machines=True)) as found:
        for machine in found.hosts:
            # That a container runs is on the disk some seconds later: docker renames files without syncing folders.
            machine.run("sync")
        yield found


@pytest.fixture
def site(_cluster: ClusterSite) -> ClusterSite:
    """Two machines whose containers reach each other."""
    return _cluster


def _record(machine: Machine) -> dict[str, object]:
    """The record of the last lease. A half-written one is not JSON."""
    found: dict[str, object] = json.loads(machine.run("cat", f"{STATE}/lease.json"))
    return found


def _is_whole(machine: VirtualMachine) -> None:
    """It has booted, nothing has failed on it, and no file of the daemon's state is empty or half-written."""
    leases.wait_for(machine)
    wait_for_probes(machine)
    assert machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    assert _record(machine)["subnet"] == str(machine.bip().network)
    assert machine.run("find", STATE, "-type", "f", "-empty") == ""


def test_all_machines_and_etcd_lose_their_power_at_once_and_all_come_back(
    site: ClusterSite, a: VirtualMachine, b: VirtualMachine, record_property: Recorder
) -> None:
    before = {machine.name: (machine.bip(), machine.boot_id()) for machine in (a, b)}
    assert site.etcd is not None
    # Nothing is told to anybody, and nothing is written to the disks any more.
    site.etcd.kill("SIGKILL")
    for machine in (a, b):
        machine.power_cut()
    site.etcd.start()
    began = time.monotonic()
    each(VirtualMachine.boot, [a, b])
    each(_is_whole, [a, b])
    after = {machine.name: (machine.bip(), machine.boot_id()) for machine in (a, b)}
    assert [bip for bip, _ in after.values()] == [bip for bip, _ in before.values()]
    assert not {boot for _, boot in after.values()} & {boot for _, boot in before.values()}
    for source, target in site.pairs:
        # Containers came back by themselves, under whatever address Docker gave them now.
        reached = eventually("it is reached", partial(ping, source.in_probe, target.probe_address()), timeout_s=_BACK_S)
        eventually("the daemon says so", partial(has_reached, source, target), timeout_s=_BACK_S)
        assert reached.lost == 0, reached
    Fault(
        fault="power cut of all machines and etcd",
        backend=site.cluster.backend_type,
        sent=0,
        lost=0,
        recovered_s=round(time.monotonic() - began, 1),
    ).record(record_property)


def test_a_power_cut_right_after_the_lease_takes_back_no_file_that_was_written(
    site: ClusterSite, b: VirtualMachine
) -> None:
    before = b.bip()
    # A record that is new: the kernel has written nothing of it to the disk by itself yet (5 s, ext4(5), commit=).
    b.shell(f"systemctl stop overlayd && rm {STATE}/lease.json && sync && systemctl start overlayd")
    written = int(b.run("stat", "--format", "%Y", f"{STATE}/lease.json"))
    b.power_cut()
    b.boot()
    _is_whole(b)
    assert b.bip() == before
    began = int(b.run("sh", "-c", "grep btime /proc/stat | cut -d' ' -f2"))
    # An unchanged file is not written again: this one is of the boot before.
    assert int(b.run("stat", "--format", "%Y", f"{STATE}/lease.json")) == written < began


# A command that succeeds when the daemon is that far.
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("[ $(systemctl show --value --property=MainPID overlayd) != 0 ]", id="its process has begun"),
        pytest.param(f"[ -e {STATE}/lease.json ]", id="it has written down its lease"),
    ],
)
def test_a_power_cut_while_the_daemon_starts_leaves_a_host_that_comes_back_on_its_subnet(
    site: ClusterSite, a: VirtualMachine, b: VirtualMachine, moment: str
) -> None:
    before, record = b.bip(), _record(b)["subnet"]
    b.run("systemctl", "stop", "overlayd")
    # What is in /run is lost with every boot; here the daemon starts without it, too.
    b.shell(f"rm -rf /run/overlayd && rm {STATE}/lease.json; sync")
    # One command, as a connection of its own for each look would come too late.
    looks = f"i=0; until {moment}; do i=$((i+1)); [ $i -lt 6000 ] || exit 1; sleep 0.02; done"
    b.shell(f"systemctl start --no-block overlayd; {looks}")
    b.power_cut()
    b.boot()
    _is_whole(b)
    assert (b.bip(), _record(b)["subnet"]) == (before, record)
    target = b.probe_address()
    eventually("its container is reached", lambda: ping(a.in_probe, target).lost == 0, timeout_s=_BACK_S)

"""A host as a list of parts: a new one needs nothing of the others."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from overlayd.host.parts import DesiredHost, Part, PartReport
from overlayd.host.reconciler import LAST_WHOLE, RECONCILING, REPAIRS, Reconciler
from overlayd.monitoring.status_file import Status, StatusFile
from tests.unit.host.values import lease

DESIRED = DesiredHost(lease=lease(1), peers=(lease(2),))


class ExtraPart:
    """A part that no other module has heard of."""

    name: ClassVar[str] = "extra"

    def __init__(self, *reports: PartReport) -> None:
        self.reports = list(reports)
        self.seen: list[DesiredHost] = []

    def sync(self, desired: DesiredHost) -> PartReport:
        """The next of its reports."""
        self.seen.append(desired)
        return self.reports.pop(0)

    def close(self) -> None:
        """Nothing is held."""


class OtherPart(ExtraPart):
    """A second one."""

    name: ClassVar[str] = "other"


@pytest.fixture
def status_file(tmp_path: Path) -> StatusFile:
    return StatusFile(tmp_path, Status(state="starting", pid=1, version="1"))


def reconciler(status_file: StatusFile, *parts: Part) -> Reconciler:
    """One whose clocks stand at 100 and 5,000 seconds."""
    return Reconciler(parts, status_file, clock=lambda: 100.0, wall_clock=lambda: 5000.0)


def test_an_extra_part_is_synced_and_shown_with_the_others(status_file: StatusFile) -> None:
    extra = ExtraPart(PartReport(warnings=("slow",), changed=True, status={"firewall": "nftables"}))
    other = OtherPart(PartReport(status={"mtu_bytes": 1450}))
    looked = reconciler(status_file, other, extra)
    assert looked.reconcile(
        DESIRED, began=98.0, other_problems=(), status={"network": "10.5.0.0/16", "warnings": ("of leases",)}
    )
    assert looked.changed
    status = status_file.status
    assert (status.network, status.firewall, status.mtu_bytes) == ("10.5.0.0/16", "nftables", 1450)
    assert (status.problems, status.warnings) == ((), ("of leases", "slow"))
    assert extra.seen == other.seen == [DESIRED]


def test_a_part_with_problems_keeps_no_other_from_its_sync(status_file: StatusFile) -> None:
    broken = ExtraPart(PartReport(problems=("broken",), outside_problems=("firewalld",)), PartReport())
    other = OtherPart(PartReport(), PartReport())
    looked = reconciler(status_file, broken, other)
    assert not looked.reconcile(DESIRED, began=98.0, other_problems=("no underlay",), status={})
    assert list(status_file.status.problems) == ["broken", "no underlay", "firewalld"]
    assert other.seen == [DESIRED]
    assert looked.reconcile(DESIRED, began=98.0, other_problems=("no underlay",), status={})
    assert list(status_file.status.problems) == ["no underlay"]


def test_what_is_outside_of_this_host_keeps_nothing_from_starting(status_file: StatusFile) -> None:
    assert reconciler(status_file, ExtraPart(PartReport(outside_problems=("firewalld",)))).reconcile(
        DESIRED, began=98.0, other_problems=("no underlay",), status={}
    )


def test_time_is_measured_by_the_clocks_that_are_handed_in(status_file: StatusFile) -> None:
    before = RECONCILING.values[""]
    assert reconciler(status_file, ExtraPart(PartReport())).reconcile(DESIRED, began=98.0, other_problems=(), status={})
    assert (RECONCILING.values[""] - before, LAST_WHOLE.values[""]) == (2.0, 5000.0)


def test_a_repair_is_what_changed_while_lease_and_peers_did_not(status_file: StatusFile) -> None:
    before = REPAIRS.values.get("other", 0)
    written, same = PartReport(changed=True), PartReport()
    looked = reconciler(status_file, OtherPart(written, written, written, same, written))
    more = DesiredHost(lease=lease(1), peers=(lease(2), lease(3)))
    counted = []
    # The first writes everything, the third writes a new peer: nobody else has changed anything.
    for desired in (DESIRED, DESIRED, more, more, more):
        looked.reconcile(desired, began=98.0, other_problems=(), status={})
        counted.append(REPAIRS.values["other"] - before)
    assert counted == [0, 1, 1, 1, 2]

"""What the data path reports of a backend."""

from __future__ import annotations

import threading
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from overlayd.errors import CommandFailed, UnsupportedError
from overlayd.host.data_path import DataPath
from overlayd.host.look import WHOLE_LOOK_S
from overlayd.host.parts import DesiredHost, PartReport
from overlayd.kernel.converge import ConvergeReport
from overlayd.leases.conflicts import HostNeed
from overlayd.monitoring.state import Peer
from tests.unit.host.values import DirectedBackend, DirectedWatch, context, lease

TWO, THREE = lease(2, data={"VtepMAC": "02:00:00:00:00:02"}), lease(3)
DESIRED = DesiredHost(lease=lease(1), peers=(THREE, TWO))
ONE_OF_TWO = ConvergeReport(
    written=3,
    paths={TWO.key_name: "vxlan"},
    peer_problems={THREE.key_name: "the lease has no VtepMAC"},
)


def fails(error: Exception) -> ConvergeReport:
    raise error


def peers(data_path: DataPath, desired: DesiredHost = DESIRED) -> list[tuple[str | None, str | None, str | None]]:
    found: tuple[Peer, ...] = data_path.sync(desired).status["peers"]
    return [(peer.subnet, peer.path, peer.problem) for peer in found]


def test_a_peer_that_is_refused_is_no_problem_of_this_host() -> None:
    backend = DirectedBackend()
    data_path = DataPath(context(backend))
    backend.apply_ = lambda: ONE_OF_TWO
    report = data_path.sync(DESIRED)
    assert (report.problems, report.changed) == ((), True)
    assert (report.status["backend"], report.status["mtu_bytes"], report.status["peers_untold"]) == ("vxlan", 1450, 0)
    assert data_path.served == (TWO,)
    assert peers(data_path) == [
        ("10.5.2.0/24", "vxlan", None),
        ("10.5.3.0/24", None, "the lease has no VtepMAC"),
    ]


def test_a_reserved_lease_without_data_is_no_peer_with_a_problem() -> None:
    backend = DirectedBackend()
    backend.apply_ = lambda: ONE_OF_TWO
    reserved = replace(DESIRED, reserved=frozenset({THREE.key_name}))
    assert peers(DataPath(context(backend)), reserved)[1] == ("10.5.3.0/24", "reserved", None)


def test_a_backend_that_fails_leaves_the_served_peers_as_they_were() -> None:
    backend = DirectedBackend()
    data_path = DataPath(context(backend))
    backend.apply_ = lambda: ONE_OF_TWO
    data_path.sync(DESIRED)
    backend.apply_ = lambda: fails(CommandFailed("ip: no"))
    report = data_path.sync(DESIRED)
    assert (report.problems, report.changed, data_path.served) == (("ip: no",), False, (TWO,))
    assert len(report.status["peers"]) == 2


def test_a_backend_that_this_host_cannot_have_is_raised() -> None:
    backend = DirectedBackend()
    backend.apply_ = lambda: fails(UnsupportedError("no such devices"))
    with pytest.raises(UnsupportedError):
        DataPath(context(backend)).sync(DESIRED)


def test_packets_are_carried_until_it_is_closed() -> None:
    backend = DirectedBackend()
    data_path = DataPath(context(backend))
    data_path.open(DESIRED.lease, on_failure=lambda: None)
    assert data_path.sync(DESIRED).problems == ()
    data_path.close()
    assert backend.calls == ["open", "apply", "close"]


def test_a_data_path_that_ends_by_itself_wakes_the_daemon_and_is_a_problem() -> None:
    backend, woken = DirectedBackend(), threading.Event()
    data_path = DataPath(context(backend))
    backend.run_ = lambda _stop: fails(CommandFailed("the socket is gone"))
    data_path.open(DESIRED.lease, on_failure=woken.set)
    assert woken.wait(10)
    assert data_path.sync(DESIRED).problems == ("the data path ended: the socket is gone",)
    data_path.close()


WHOLE = ConvergeReport(paths={TWO.key_name: "vxlan", THREE.key_name: "vxlan"})


class Looks:
    """A data path whose backend leaves everything as it should be, and how often it looked at the kernel."""

    def __init__(self) -> None:
        self.backend = DirectedBackend()
        self.backend.apply_ = lambda: WHOLE
        self.watch = DirectedWatch()
        self.now_s = 0.0
        self.context = context(self.backend, watch=self.watch)
        self.data_path = DataPath(self.context, clock=lambda: self.now_s)

    def after(self, desired: DesiredHost = DESIRED) -> tuple[int, PartReport]:
        """How many looks there were for one more sync, and what it reported."""
        before = len(self.backend.calls)
        report = self.data_path.sync(desired)
        return len(self.backend.calls) - before, report


def test_without_news_the_kernel_is_not_read_again() -> None:
    looks = Looks()
    first, second = looks.after(), looks.after()
    assert (first[0], second[0]) == (1, 0)
    assert second[1] == replace(first[1], changed=False)
    # The same object: with thousands of peers it takes long to compare.
    assert second[1].status["peers"] is first[1].status["peers"]
    looks.watch.count += 1
    assert (looks.after()[0], looks.after()[0]) == (1, 0)
    looks.now_s = WHOLE_LOOK_S
    assert (looks.after()[0], looks.after()[0]) == (1, 0)
    looks.context.here.needed = (HostNeed(network=IPv4Network("192.0.2.1/32"), what="etcd's address"),)
    assert (looks.after()[0], looks.after()[0]) == (1, 0)
    # A peer that goes, or a lease of another address.
    assert looks.after(replace(DESIRED, peers=(TWO,)))[0] == 1
    assert looks.after(replace(DESIRED, lease=lease(9)))[0] == 1


@pytest.mark.parametrize(
    "report", [replace(WHOLE, problems=("no room",)), replace(WHOLE, refused=1)], ids=["a problem", "a refusal"]
)
def test_what_is_not_whole_is_tried_again(report: ConvergeReport) -> None:
    looks = Looks()
    looks.backend.apply_ = lambda: report
    assert (looks.after()[0], looks.after()[0]) == (1, 1)
    looks.backend.apply_ = lambda: fails(CommandFailed("ip: no"))
    assert (looks.after()[0], looks.after()[0]) == (1, 1)


def test_a_backend_of_whose_changes_nothing_is_told_is_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks()
    monkeypatch.setattr(looks.backend, "facts", replace(DirectedBackend.facts, notified=False))
    assert (looks.after()[0], looks.after()[0]) == (1, 1)


def test_a_kernel_setting_that_somebody_changed_is_noticed_without_news(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks()
    looks.after()
    monkeypatch.setattr("overlayd.kernel.netlink.settings_hold", lambda _settings: False)
    assert (looks.after()[0], looks.after()[0]) == (1, 1)


def test_what_is_told_of_a_peer_is_the_same_object_while_it_is_true() -> None:
    looks = Looks()
    two, three = looks.after()[1].status["peers"]
    looks.backend.apply_ = lambda: ConvergeReport(paths={TWO.key_name: "direct", THREE.key_name: "vxlan"})
    looks.watch.count += 1
    found = looks.after()[1].status["peers"]
    assert (found[0].path, found[1] is three) == ("direct", True)
    assert looks.data_path.served_subnets == {peer.v4.subnet for peer in (TWO, THREE) if peer.v4}
    looks.backend.apply_ = lambda: ConvergeReport(paths={TWO.key_name: "vxlan"})
    (found_two,) = looks.after(replace(DESIRED, peers=(replace(TWO),)))[1].status["peers"]
    # Another lease with the same words.
    assert (found_two == two, found_two is two) == (True, False)
    assert looks.data_path.served_subnets == {TWO.v4.subnet if TWO.v4 else None}

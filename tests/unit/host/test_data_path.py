"""What the data path reports of a backend."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from overlayd.errors import CommandFailed, UnsupportedError
from overlayd.host.data_path import DataPath
from overlayd.host.parts import DesiredHost
from overlayd.kernel.converge import ConvergeReport
from overlayd.monitoring.state import Peer
from tests.unit.host.values import DirectedBackend, context, lease

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

"""Containers to send from are looked for when docker0 changes, and again where one may have been missed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd.errors import KernelRefused
from overlayd.kernel import interfaces
from overlayd.kernel.namespaces import in_namespace
from overlayd.lib import marks
from overlayd.lib.addresses import ip_address
from overlayd.probe import container_sockets, containers
from overlayd.probe.container_sockets import AGAIN_AT_MOST_S, GIVEN_UP_S, LOOK_S, ContainerSockets, SocketsInContainer
from overlayd.probe.peers import SourceContainer

NO_SERVICE = Path("/nonexistent")
FOUND: tuple[SourceContainer, ...] = (SocketsInContainer(1, (ip_address("10.5.1.2"),), {}),)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(container_sockets, "time", made)
    monkeypatch.setattr(container_sockets, "_ports", lambda _bridge: frozenset({7}))
    return made


def test_a_container_whose_port_came_before_its_address_is_found(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    looks: list[tuple[SourceContainer, ...]] = [(), FOUND]
    sockets = ContainerSockets(path=NO_SERVICE)
    monkeypatch.setattr(container_sockets, "first_on_bridge", lambda *_count, **_bridge: looks.pop(0))
    assert sockets.containers(()) == ()
    clock.now += LOOK_S
    assert sockets.containers(()) == FOUND
    # As many as there can be: nothing is looked for any more.
    clock.now += 10 * AGAIN_AT_MOST_S
    assert sockets.containers(()) == FOUND


def test_where_nobody_is_behind_the_ports_it_is_looked_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    looks: list[float] = []

    def look(_count: int, bridge: str) -> tuple[SourceContainer, ...]:
        looks.append(clock.now)
        return ()

    sockets = ContainerSockets(path=NO_SERVICE)
    monkeypatch.setattr(container_sockets, "first_on_bridge", look)
    for _ in range(600):
        sockets.containers(())
        clock.now += 1.0
    assert 10 <= len(looks) <= 16, looks


def test_a_kernel_that_refuses_is_a_problem_and_no_end_of_the_thread(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def refuse(*_words: object, **_more: object) -> frozenset[int]:
        raise KernelRefused("link dump", "all", 105)

    sockets = ContainerSockets(path=NO_SERVICE)
    monkeypatch.setattr(container_sockets, "first_on_bridge", refuse)
    assert sockets.containers(()) == ()
    assert "link dump" in (sockets.problem or "")
    clock.now += LOOK_S
    monkeypatch.setattr(container_sockets, "_ports", refuse)
    assert sockets.containers(()) == ()
    assert "the bridge of this host" in (sockets.problem or "")


def test_what_a_call_in_a_namespace_raises_is_raised_where_it_was_made() -> None:
    def refuse() -> None:
        raise KernelRefused("link dump", "all", 105)

    # Its own: to enter another one takes root. A user may enter none, which is said as well.
    with pytest.raises((KernelRefused, PermissionError)):
        in_namespace(Path("/proc/self/ns/net"), refuse)


def test_another_network_than_0_sends_from_the_bridge_that_has_its_subnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "with_address_in", lambda _subnets: ("overlay1.1", "br-second"))
    assert containers.bridge_of(()) == "docker0"
    monkeypatch.setattr(marks, "_number", 1)
    assert containers.bridge_of(()) == "br-second"
    monkeypatch.setattr(interfaces, "with_address_in", lambda _subnets: ())
    assert containers.bridge_of(()) == "br-overlay1"


class LateService:
    """The service, with one request after the other answered when a test says so."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()

    def answers(self, *documents: bytes) -> None:
        """Take the next request and answer it; ends without an answer where there is no document."""
        client, _address = self._listener.accept()
        with client:
            assert client.recv(64) == b"containers docker0"
            for document in documents:
                client.send(document)

    def requests(self) -> int:
        """How many requests wait for an answer."""
        self._listener.setblocking(False)
        found = []
        try:
            while True:
                found.append(self._listener.accept()[0])
        except BlockingIOError:
            pass
        for one in found:
            one.close()
        return len(found)

    def close(self) -> None:
        self._listener.close()


ANSWER = b'{"containers": [{"number": 1, "addresses": ["10.5.1.2"], "versions": []}]}'


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, clock: Clock, tmp_path: Path) -> Iterator[tuple[LateService, Path]]:
    monkeypatch.setattr(container_sockets, "bridge_of", lambda _subnets: "docker0")
    path = tmp_path / "sock"
    service = LateService(path)
    yield service, path
    service.close()


def test_an_answer_that_comes_late_counts_when_it_is_there(clock: Clock, late: tuple[LateService, Path]) -> None:
    service, path = late
    sockets = ContainerSockets(path=path, timeout_s=0.05)
    for _ in range(5):
        assert sockets.containers(()) == ()
        assert "has not answered" in (sockets.problem or "")
        clock.now += LOOK_S
    service.answers(ANSWER)
    assert sockets.containers(()) == FOUND
    assert sockets.problem is None
    # It was asked once.
    assert service.requests() == 0
    sockets.close()


def test_a_service_that_never_answers_is_given_up_and_asked_again(clock: Clock, late: tuple[LateService, Path]) -> None:
    service, path = late
    sockets = ContainerSockets(path=path, timeout_s=0.05)
    sockets.containers(())
    clock.now += GIVEN_UP_S + 1
    assert sockets.containers(()) == ()
    assert sockets.problem == "containers cannot be entered: overlayd-containers.service has not answered within 300 s"
    clock.now += AGAIN_AT_MOST_S
    sockets.containers(())
    assert service.requests() == 2
    sockets.close()


def test_a_service_that_ends_without_an_answer_is_a_problem_until_the_next_one_answers(
    clock: Clock, late: tuple[LateService, Path]
) -> None:
    service, path = late
    sockets = ContainerSockets(path=path, timeout_s=0.05)
    sockets.containers(())
    service.answers()
    clock.now += LOOK_S
    assert sockets.containers(()) == ()
    assert sockets.problem == f"containers cannot be entered: {path} ended without an answer"
    clock.now += AGAIN_AT_MOST_S
    sockets.containers(())
    service.answers(ANSWER)
    clock.now += LOOK_S
    assert sockets.containers(()) == FOUND
    assert not sockets.problem
    sockets.close()

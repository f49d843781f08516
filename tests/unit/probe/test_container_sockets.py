"""Containers to send from are looked for when docker0 changes, and again where one may have been missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.errors import KernelRefused
from overlayd.kernel import interfaces
from overlayd.kernel.namespaces import in_namespace
from overlayd.lib import marks
from overlayd.lib.addresses import ip_address
from overlayd.probe import container_sockets, containers
from overlayd.probe.container_sockets import AGAIN_AT_MOST_S, LOOK_S, ContainerSockets, SocketsInContainer
from overlayd.probe.peers import SourceContainer

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
    sockets = ContainerSockets()
    monkeypatch.setattr(sockets, "_look", lambda: looks.pop(0))
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

    def look() -> tuple[SourceContainer, ...]:
        looks.append(clock.now)
        return ()

    sockets = ContainerSockets()
    monkeypatch.setattr(sockets, "_look", look)
    for _ in range(600):
        sockets.containers(())
        clock.now += 1.0
    assert 10 <= len(looks) <= 16, looks


def test_a_kernel_that_refuses_is_a_problem_and_no_end_of_the_thread(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def refuse(*_words: object, **_more: object) -> frozenset[int]:
        raise KernelRefused("link dump", "all", 105)

    sockets = ContainerSockets(path=Path("/nonexistent"))
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


def test_a_service_that_answers_late_is_given_more_time_and_then_its_answer_counts(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, tmp_path: Path
) -> None:
    waits: list[float] = []

    def request(_path: Path, _bridge: str, *, timeout_s: float) -> tuple[SourceContainer, ...]:
        waits.append(timeout_s)
        if timeout_s < 15:
            raise TimeoutError("timed out")
        return FOUND

    monkeypatch.setattr(container_sockets, "request_sockets", request)
    monkeypatch.setattr(container_sockets, "bridge_of", lambda _subnets: "docker0")
    path = tmp_path / "sock"
    path.touch()
    sockets = ContainerSockets(path=path)
    for _ in range(3):
        found = sockets.containers(())
        clock.now += AGAIN_AT_MOST_S
    assert (found, waits, sockets.problem) == (FOUND, [5.0, 10.0, 20.0], None)

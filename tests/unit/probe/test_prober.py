"""The daemon's thread that asks peers, with a network that is played: what it sends, to whom, and how it ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from overlayd.lib.addresses import IPNetwork
from overlayd.monitoring.state import FAILING, NO_CONTAINER, REACHED
from overlayd.probe.container_sockets import ContainerSockets, SocketsInContainer
from overlayd.probe.peers import KnownPeer, LocalHost, SourceContainer
from overlayd.probe.pinger import Echo, EchoResult, Pinger, Wake
from overlayd.probe.prober import Prober
from overlayd.probe.reach import INTERVAL_S, NOTE_BYTES, PathState, parse_note

CONTAINER = ip_address("10.5.1.2")


class PlayedContainerSockets(ContainerSockets):
    """Lends one container, whose socket is had once, as the service does."""

    def __init__(self) -> None:
        super().__init__()
        self.lent: list[socket.socket] = []

    def containers(self, subnets: Sequence[IPNetwork]) -> tuple[SourceContainer, ...]:
        del subnets
        if not self._found:
            ours, peer_containers = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            ours.setblocking(False)
            self.lent += [ours, peer_containers]
            self._found = (SocketsInContainer(1, (CONTAINER,), {4: ours}),)
        return self._found


@pytest.fixture
def container_sockets() -> Iterator[PlayedContainerSockets]:
    found = PlayedContainerSockets()
    yield found
    for one in found.lent:
        one.close()


@pytest.fixture
def prober(container_sockets: PlayedContainerSockets) -> Iterator[Prober]:
    made = Prober(container_sockets, rate_per_s=5, alive=lambda _peer: (True, None), on_change=lambda: None)
    yield made
    made._pinger.close()
    made.stop()


def peers(count: int, *, backend: str = "vxlan") -> list[KnownPeer]:
    return [
        KnownPeer(subnet=ip_network(f"10.5.{at}.0/24"), public_ip=ip_address(f"198.18.1.{at}"), backend=backend)
        for at in range(2, 2 + count)
    ]


def play(monkeypatch: pytest.MonkeyPatch, prober: Prober, answer: Any) -> list[Echo]:
    """Let `answer` say what comes of each echo; the echoes as they are sent."""
    sent: list[Echo] = []

    def exchange(echoes: Sequence[Echo], *, timeout_s: float) -> list[EchoResult]:
        sent.extend(echoes)
        assert timeout_s > 0
        return [answer(echo) for echo in echoes]

    monkeypatch.setattr(prober._pinger, "exchange", exchange)
    return sent


def turn(prober: Prober) -> None:
    """A round in which everybody is due and the budget is full."""
    for path in prober._paths.values():
        path.due = 0.0
    prober._tokens = 1000.0
    prober._round()


def test_a_budget_that_was_overdrawn_sends_nothing(monkeypatch: pytest.MonkeyPatch, prober: Prober) -> None:
    sent = play(monkeypatch, prober, lambda _echo: EchoResult(problem="no answer"))
    prober.follow(peers(100), LocalHost())
    prober._round()
    sent.clear()
    for path in prober._paths.values():
        path.due = 0.0
    prober._tokens, prober._refilled_at = -20.0, time.monotonic()
    prober._round()
    assert sent == []


def test_peers_that_went_and_came_are_sent_to_by_a_socket_that_is_open(
    container_sockets: PlayedContainerSockets, prober: Prober
) -> None:
    prober.follow(peers(1), LocalHost())
    prober._round()
    prober.follow([], LocalHost())
    prober._round()
    prober.follow(peers(1), LocalHost())
    prober._round()
    opened = [channel.socket for key, channel in prober._pinger._channels.items() if key[2] is not None]
    assert [one.fileno() >= 0 for one in opened] == [True]
    assert len(container_sockets.lent) == 4


@pytest.mark.parametrize(("by", "state"), [("198.18.1.2", NO_CONTAINER), ("198.18.1.9", FAILING)])
def test_a_container_that_ended_is_told_of_by_its_host_which_has_no_device_with_host_gw(
    monkeypatch: pytest.MonkeyPatch, prober: Prober, by: str, state: str
) -> None:
    ended = False

    def answer(echo: Echo) -> EchoResult:
        if ended and int(echo.target) & 0xFF > 1:
            return EchoResult(problem="it is not", reason="host unreachable", refused_by=ip_address(by))
        return EchoResult(rtt_s=0.001)

    play(monkeypatch, prober, answer)
    prober.follow(peers(1, backend="host-gw"), LocalHost())
    turn(prober)
    ended = True
    for _ in range(3):
        turn(prober)
    assert prober.findings.peers[0].state == state


def test_a_container_that_answers_nobody_says_so_and_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, prober: Prober
) -> None:
    sent = play(monkeypatch, prober, lambda echo: EchoResult(rtt_s=None if echo.target == CONTAINER else 0.001))
    prober.follow(peers(1), LocalHost())
    turn(prober)
    note = next(echo.note for echo in sent if echo.note)
    assert parse_note(note) is not None
    (path,) = prober._paths.values()
    path.known, path.target = False, None
    path.on_request(ip_address("10.5.2.7"), note, now=1.0)
    assert (path.known, path.heard is not None, len(note)) == (False, True, NOTE_BYTES)
    # Once it answers, its next request says that.
    sent = play(monkeypatch, prober, lambda _echo: EchoResult(rtt_s=0.001))
    prober._answering_again_at = 0.0
    turn(prober)
    path.known, path.target = False, None
    path.on_request(ip_address("10.5.2.7"), next(echo.note for echo in sent if echo.note), now=1.0)
    assert path.known


def test_a_peer_that_changed_its_backend_is_judged_by_the_new_one(prober: Prober) -> None:
    prober.follow(peers(1), LocalHost())
    prober.follow(peers(1, backend="host-gw"), LocalHost())
    assert [path.peer.backend for path in prober._paths.values()] == ["host-gw"]


def test_when_all_fail_at_once_those_that_were_looked_into_speak_for_all(
    monkeypatch: pytest.MonkeyPatch, prober: Prober
) -> None:
    fails, prober._rate_per_s = False, 1000.0
    play(monkeypatch, prober, lambda _echo: EchoResult(rtt_s=None if fails else 0.001))
    prober.follow(peers(100), LocalHost())
    turn(prober)
    assert {one.state for one in prober.findings.peers} == {REACHED}
    fails = True
    for _ in range(3):
        turn(prober)
    assert prober.findings.severe
    # The next to be looked into are those that were not.
    first = {one.subnet for one in prober.findings.peers if one.state != REACHED}
    for path in prober._paths.values():
        path.diagnosed_at -= 1000.0
    prober._diagnoses_from -= 2 * INTERVAL_S
    turn(prober)
    then = {one.subnet for one in prober.findings.peers if one.state != REACHED}
    assert (len(first), len(then)) == (3, 6)


@pytest.mark.needs("root")
def test_who_is_told_to_end_waits_for_no_answer_any_more() -> None:
    wake = Wake()
    with Pinger(wake=wake) as pinger:

        def end() -> None:
            wake.ends = True
            wake.set()

        ender = threading.Timer(0.2, end)
        ender.start()
        began = time.monotonic()
        echo = Echo(target=ip_address("192.0.2.1"), packet_bytes=36)
        # The first wait reads the word; those behind it know all the same.
        for _ in range(2):
            pinger.exchange([echo], timeout_s=5.0)
        pinger.listen(5.0)
        assert time.monotonic() - began < 2.0
        ender.join()
    wake.close()


def test_a_request_that_is_heard_costs_the_same_with_5000_peers_as_with_50(prober: Prober) -> None:
    def seconds(count: int) -> float:
        peers = [
            KnownPeer(
                subnet=ip_network((int(ip_address("10.0.0.0")) + 256 * at, 24)),
                public_ip=ip_address(int(ip_address("198.18.0.0")) + at),
                backend="vxlan",
            )
            for at in range(count)
        ]
        prober.follow(peers, LocalHost())
        senders = [peer.subnet[7] for peer in peers[:50]]
        note = PathState(peer=peers[0], due=0.0).note(1.0)
        started = time.thread_time()
        for _ in range(20):
            for sender in senders:
                prober._heard(sender, note)
        took_s = time.thread_time() - started
        assert all(prober._paths[peer.subnet, peer.public_ip].known for peer in peers[:50])
        return took_s

    few, many = min(seconds(50) for _ in range(3)), min(seconds(5000) for _ in range(3))
    assert many < 4 * few

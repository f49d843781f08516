"""The path to each peer's containers, measured once for doctor. It takes a few seconds, however many there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from overlayd.lib.addresses import IPAddress
from overlayd.monitoring.state import Reach
from overlayd.probe.peers import KnownPeer, LocalHost, first_containers, host_addresses
from overlayd.probe.pinger import Echo, Pinger, overlay_echo, underlay_echo
from overlayd.probe.reach import HOPS, Diagnosis, PathState, last_hop

TIMEOUT_S = 1.0
TRIES = 2
# For so many failing paths the last hop that answers is looked for.
TRACED_AT_MOST = 8


def measure_once(peers: Sequence[KnownPeer], local: LocalHost) -> tuple[Reach, ...]:
    """Send echoes to each peer: to a container, to its host by the overlay, and to its host by the underlay.

    They are sent from a container of this host, if there is one. Where a known container does not answer, the last hop
    that does is looked for. Raises PrivilegeError.
    """
    paths = [PathState(peer=peer, due=0.0) for peer in peers]
    with Pinger() as pinger:
        for path in paths:
            path.on_published(local.peer_containers.get(str(path.peer.subnet)))
        answers = _answers(pinger, paths, local)
        traced = 0
        for path in paths:
            container = next((one for one in _containers(path) if answers.get((path.peer.subnet, one))), None)
            now, clock = time.monotonic(), time.time()
            if container is not None:
                rtt_s = answers[path.peer.subnet, container]
                path.answered(container, rtt_s=rtt_s, now=now, clock=clock, interval_s=0)
                continue
            for _ in range(TRIES):
                path.missed(now=now, clock=clock, interval_s=0)
            diagnosis = Diagnosis(
                host=any((path.peer.subnet, one) in answers for one in host_addresses(path.peer.subnet)),
                underlay=(path.peer.subnet, path.peer.public_ip) in answers,
                # This host's daemon has pending etcd. Where the underlay filters echoes, nothing else tells a host that
                # runs from one that is switched off.
                lives=True if str(path.peer.subnet) in local.peer_problems else None,
            )
            if path.known and traced < TRACED_AT_MOST:
                traced += 1
                diagnosis = replace(diagnosis, last_hop=_trace(pinger, path, local))
            path.diagnosed(diagnosis, now=time.monotonic())
    return tuple(path.shown for path in paths)


def _answers(pinger: Pinger, paths: Sequence[PathState], local: LocalHost) -> dict[tuple[object, IPAddress], float]:
    """The round trip in seconds of each address that answered, by the peer's subnet and the address."""
    found: dict[tuple[object, IPAddress], float] = {}
    for _ in range(TRIES):
        pending = [
            (path.peer.subnet, echo)
            for path in paths
            for echo in _echoes(path, local)
            if (path.peer.subnet, echo.target) not in found
        ]
        outcomes = pinger.exchange([echo for _subnet, echo in pending], timeout_s=TIMEOUT_S)
        for (subnet, echo), outcome in zip(pending, outcomes, strict=True):
            if outcome.rtt_s is not None:
                found[subnet, echo.target] = outcome.rtt_s
    return found


def _containers(path: PathState) -> tuple[IPAddress, ...]:
    return (path.target,) if path.target is not None else first_containers(path.peer.subnet)


def _echoes(path: PathState, local: LocalHost) -> list[Echo]:
    targets = (*host_addresses(path.peer.subnet), *_containers(path))
    return [underlay_echo(path.peer.public_ip), *(overlay_echo(one, local, local.containers) for one in targets)]


def _trace(pinger: Pinger, path: PathState, local: LocalHost) -> str | None:
    echoes = [overlay_echo(path.next_target, local, local.containers, hops=hops) for hops in range(1, HOPS + 1)]
    outcomes = pinger.exchange(echoes, timeout_s=TIMEOUT_S)
    return last_hop([outcome.refused_by for outcome in outcomes])

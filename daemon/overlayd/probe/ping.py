"""`overlayd ping`: all peers at once, first by small echoes, then by the packet sizes that have to get through."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import field, replace

from overlayd.lib.quick_dataclass import dataclass
from overlayd.probe import icmp
from overlayd.probe.pathmtu import Search
from overlayd.probe.peers import Address, PathSpec, PingTarget
from overlayd.probe.pinger import Echo, EchoResult, Pinger
from overlayd.probe.report import PathResult, PeerReport

# A size counts as lost when none of so many packets is answered.
TRIES = 2
SHORTEST_WAIT_S = 0.25


@dataclass
class _Measurement:
    """One path to one peer, while it is measured."""

    path: PathSpec
    result: PathResult
    answered: Echo | None = None
    search: Search | None = None
    outcomes: list[EchoResult] = field(default_factory=list)


def measure(targets: Sequence[PingTarget], *, count: int, timeout_s: float, sizes: bool = True) -> list[PeerReport]:
    """Ping each target three times: its host by the underlay, its host by the overlay, one of its containers.

    Each path gets `count` small echoes, and with `sizes` echoes of the size that has to get through. This takes `count`
    times `timeout_s` seconds at most; and a dozen waits more where that size is lost, to find the largest that is not.
    Raises PrivilegeError.
    """
    underlay = [_Measurement(path=target.underlay, result=_untried(target.underlay)) for target in targets]
    overlay = [_Measurement(path=target.overlay, result=_untried(target.overlay)) for target in targets]
    container_paths = [target.containers or target.overlay for target in targets]
    containers = [_Measurement(path=path, result=_untried(path)) for path in container_paths]
    with Pinger() as pinger:
        _round_measurements(pinger, [*underlay, *overlay, *containers], count=count, timeout_s=timeout_s)
        if sizes:
            _sizes(pinger, [*underlay, *overlay, *containers], timeout_s=timeout_s)
    return [
        PeerReport(
            subnet=target.subnet,
            public_ip=str(target.underlay.addresses[0]),
            backend=target.backend,
            version=target.overlay.addresses[0].version,
            underlay=below.result,
            overlay=above.result,
            containers=container.result if target.containers is not None else None,
            known=target.known,
            said=target.said,
        )
        for target, below, above, container in zip(targets, underlay, overlay, containers, strict=True)
    ]


def _untried(path: PathSpec) -> PathResult:
    return PathResult(tried=tuple(map(str, path.addresses)), wished_bytes=path.wished_bytes)


def _round_measurements(pinger: Pinger, measurements: Sequence[_Measurement], *, count: int, timeout_s: float) -> None:
    pending = [(measurement, echo) for measurement in measurements for echo in _small_echoes(measurement.path)]
    found: dict[tuple[int, Address], list[EchoResult]] = {}
    for _ in range(count):
        outcomes = pinger.exchange([echo for _measurement, echo in pending], timeout_s=timeout_s)
        for (measurement, echo), outcome in zip(pending, outcomes, strict=True):
            found.setdefault((id(measurement), echo.target), []).append(outcome)
        # Once one of a peer's addresses answers, the others, which it may not have, get no more echoes.
        answering = {id(measurement) for measurement, echo in pending if _rtts(found[id(measurement), echo.target])}
        pending = [
            (measurement, echo)
            for measurement, echo in pending
            if id(measurement) not in answering or _rtts(found[id(measurement), echo.target])
        ]
    for measurement in measurements:
        echoes = _small_echoes(measurement.path)
        results = [found[id(measurement), echo.target] for echo in echoes]
        best = max(range(len(echoes)), key=lambda at: len(_rtts(results[at])))
        if _rtts(results[best]):
            silent = tuple(str(echo.target) for at, echo in enumerate(echoes) if not _rtts(results[at]))
            measurement.result = replace(measurement.result, silent=silent)
        _conclude(measurement, echoes[best], results[best])


def _rtts(outcomes: Sequence[EchoResult]) -> list[float]:
    return [1000 * outcome.rtt_s for outcome in outcomes if outcome.rtt_s is not None]


def _conclude(measurement: _Measurement, echo: Echo, outcomes: list[EchoResult]) -> None:
    rtts = _rtts(outcomes)
    measurement.result = replace(
        measurement.result,
        answered_by=str(echo.target) if rtts else None,
        sent=len(outcomes),
        received=len(rtts),
        rtt_ms=statistics.median(rtts) if rtts else None,
        problem=None if rtts else next((o.problem for o in outcomes if o.problem != "no answer"), "no answer"),
    )
    measurement.answered = echo if rtts else None


def _small_echoes(path: PathSpec) -> list[Echo]:
    return [
        Echo(target=address, packet_bytes=icmp.smallest(address.version), source=path.source, container=path.container)
        for address in path.addresses
    ]


def _sizes(pinger: Pinger, measurements: Sequence[_Measurement], *, timeout_s: float) -> None:
    for measurement in measurements:
        if measurement.answered is not None and measurement.path.wished_bytes is not None:
            measurement.search = Search(
                wished_bytes=measurement.path.wished_bytes, answered_bytes=measurement.answered.packet_bytes
            )
    while True:
        rounds = [
            (measurement, measurement.search, size, replace(measurement.answered, packet_bytes=size))
            for measurement in measurements
            if measurement.answered is not None
            and measurement.search is not None
            and (size := measurement.search.next_bytes) is not None
        ]
        if not rounds:
            break
        slowest_s = max((measurement.result.rtt_ms or 0) / 1000 for measurement, *_rest in rounds)
        wait_s = min(timeout_s, max(SHORTEST_WAIT_S, 4 * slowest_s))
        outcomes = pinger.exchange([echo for *_rest, echo in rounds for _ in range(TRIES)], timeout_s=wait_s)
        for at, (measurement, search, size, _echo) in enumerate(rounds):
            tried = outcomes[at * TRIES : (at + 1) * TRIES]
            if any(outcome.rtt_s is not None for outcome in tried):
                search.came_through(size)
                continue
            search.got_lost(size, hint_bytes=next((o.hint_bytes for o in tried if o.hint_bytes), None))
            reason = next((o.problem for o in tried if o.problem != "no answer"), None)
            measurement.result = replace(
                measurement.result, problem=reason or "larger packets are lost without an ICMP error"
            )
    for measurement in measurements:
        if measurement.search is not None:
            measurement.result = replace(measurement.result, path_bytes=measurement.search.found_bytes)

"""Measures ways between two places: the bare one and those over it, in turns, so that other work meets all alike."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from overlayd.errors import OverlaydError
from tests.perf import outputs
from tests.perf.layout import FIGURES, beside_bare
from tests.perf.place import Pair, Place, running, wait_for
from tests.testbed.cluster.figures import NotAFigure, parse_iperf3

ROOT = Path(__file__).resolve().parents[2]
_TCP, _ROUND_TRIPS, _CONNECTIONS, _DATAGRAMS = 15201, 15202, 15203, 15210
_UDP_BYTES = 200
_GRACE_S = 20.0
_SETTLE_S = 0.1
_AGAIN_S = 2.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BARE = "bare"
# A sender keeps one processor busy with the whole way of its packets, and the receiver needs another.
SENDERS = max(1, min(4, (os.cpu_count() or 2) // 2))

# By figure: a number, or the reason why there is none.
Turn = dict[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often everything is measured, and for how long, in s: a TCP flow, and each of the other figures."""

    repeat: int = 3
    flow_s: int = 2
    other_s: int = 1


PACE = Pace()


@contextmanager
def serving(place: Place, folder: Path) -> Iterator[None]:
    """The other ends of all measurements, for the length of the block; their logs go to `folder`."""
    bind = str(place.address)
    python = [sys.executable, "-m", "tests.perf.connections", "serve", bind, str(_CONNECTIONS)]
    commands: list[tuple[int, bool, list[str]]] = [
        (_TCP, False, ["iperf3", "--server", "--port", str(_TCP)]),
        (_ROUND_TRIPS, False, ["sockperf", "server", "--tcp", "-i", bind, "-p", str(_ROUND_TRIPS)]),
        (_CONNECTIONS, False, python),
    ]
    for number in range(_DATAGRAMS, _DATAGRAMS + SENDERS):
        commands.append((number, True, ["sockperf", "server", "-i", bind, "-p", str(number)]))
    # Without sockperf its figures have that as their reason; everything else is measured.
    commands = [one for one in commands if one[2][0] != "sockperf" or shutil.which("sockperf")]
    with ExitStack() as stack:
        for port, udp, words in commands:
            log = folder / f"{bind}-{port}.log"
            started = stack.enter_context(running(place.words(*words), log, env=_python_path()))
            wait_for(started, f"{words[0]} at {bind}", partial(place.listens, port, udp=udp), log)
        yield


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}"}


def rounds(
    bare: Pair, ways: Mapping[str, Pair], pace: Pace, folder: Path, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """The figures of every way, beside the bare one's of the same turns. A way that fails has reasons in their place.

    Raises OverlaydError where the bare way cannot be measured.
    """
    pairs = {BARE: bare, **ways}
    turns: dict[str, list[Turn]] = {name: [] for name in pairs}
    with ExitStack() as stack:
        for pair in pairs.values():
            stack.enter_context(serving(pair.target, folder))
        for pair in pairs.values():
            _attempt(partial(_tcp, pair, 1, 1))
        for number in range(pace.repeat):
            say(f"turn {number + 1} of {pace.repeat}: {', '.join(pairs)}")
            idle = _idle_ticks_per_s(pace.other_s)
            for name, pair in pairs.items():
                turns[name].append(turn(pair, pace, idle))
    found = turns.pop(BARE)
    if reasons := [one["tcp_1_flow_gbit_s"] for one in found if isinstance(one["tcp_1_flow_gbit_s"], str)]:
        raise OverlaydError(f"the bare underlay cannot be measured: {reasons[0]}")
    return {name: figures(values, found) for name, values in turns.items()}


def figures(values: Sequence[Mapping[str, float | str]], bare: Sequence[Mapping[str, float | str]]) -> dict[str, Any]:
    """Turns as the document's figures; of a figure that failed in a turn, the others count. Pure."""
    document = {}
    for key in (figure.key for figure in FIGURES):
        both = [(one.get(key), other.get(key)) for one, other in zip(values, bare, strict=True)]
        well = [(one, other) for one, other in both if isinstance(one, float) and isinstance(other, float)]
        if well:
            document[key] = beside_bare([one for one, _ in well], [other for _, other in well])
        else:
            # The reason may be the way's own or the underlay's.
            reasons = [str(one) for pair in both for one in pair if isinstance(one, str)]
            document[key] = {"reason": reasons[0] if reasons else "not measured"}
    return document


def turn(pair: Pair, pace: Pace, idle_ticks_per_s: float = 0.0) -> Turn:
    """Measure everything once."""
    found: Turn = {}
    began, ticks = time.monotonic(), _ticks()
    rate = found["tcp_1_flow_gbit_s"] = _attempt(lambda: _tcp(pair, 1, pace.flow_s))
    if isinstance(rate, float):
        spent = _ticks() - ticks - idle_ticks_per_s * (time.monotonic() - began)
        busy = "the machine did other work meanwhile"
        found["cpu_s_per_gbit"] = spent / _TICKS_PER_S / (rate * pace.flow_s) if spent > 0 else busy
    else:
        found["cpu_s_per_gbit"] = rate
    found["tcp_4_flows_gbit_s"] = _attempt(lambda: _tcp(pair, 4, pace.flow_s))
    found["udp_200_byte_packets_per_s"] = _attempt(lambda: _datagrams(pair, pace.other_s))
    found["tcp_round_trip_us"] = _attempt(lambda: _round_trip(pair, pace.other_s))
    found["connections_per_s"] = _attempt(lambda: _connections(pair, pace.other_s))
    return found


def _sockperf(pair: Pair, *argv: str, duration_s: int) -> str:
    if shutil.which("sockperf") is None:
        raise NotAFigure("not installed: sockperf")
    return pair.source.output("sockperf", *argv, "-t", str(duration_s), timeout_s=duration_s + _GRACE_S)


def _attempt(measure: Callable[[], float]) -> float | str:
    try:
        return measure()
    except (OverlaydError, NotAFigure) as error:
        return str(error)


def _tcp(pair: Pair, flows: int, duration_s: int) -> float:
    """TCP in Gb/s, as the receiver counts it."""
    argv = ["iperf3", "--json", "--connect-timeout", "2000", "--port", str(_TCP), "--time", str(duration_s)]
    argv += ["--parallel", str(flows), "--client", str(pair.target.address)]
    try:
        found = parse_iperf3(pair.source.output(*argv, timeout_s=duration_s + _GRACE_S))
    except NotAFigure:
        # Over a slow way the server may still be busy with the end of the flow before.
        threading.Event().wait(_AGAIN_S)
        found = parse_iperf3(pair.source.output(*argv, timeout_s=duration_s + _GRACE_S))
    if not found:
        raise NotAFigure("nothing arrived")
    return found


def _datagrams(pair: Pair, duration_s: int) -> float:
    """Datagrams of 200 bytes that came as far as the target's socket each second, by the kernel's count there.

    That the program which reads them is too slow, and its buffer full, says nothing of the way.
    """

    def received() -> int:
        text = pair.target.run("cat", "/proc/net/snmp")
        return sum(outputs.snmp(text, "Udp", counter) for counter in ("InDatagrams", "RcvbufErrors"))

    def send(port: int) -> float:
        argv = ["throughput", "-i", str(pair.target.address), "-p", str(port), "-m", str(_UDP_BYTES)]
        return outputs.sent_in_s(_sockperf(pair, *argv, duration_s=duration_s))[1]

    before = received()
    with ThreadPoolExecutor(SENDERS) as pool:
        seconds = max(pool.map(send, range(_DATAGRAMS, _DATAGRAMS + SENDERS)))
    # What is still in queues counts for the way that let it in.
    threading.Event().wait(_SETTLE_S)
    found = (received() - before) / seconds
    if not found:
        raise NotAFigure("nothing arrived")
    return found


def _round_trip(pair: Pair, duration_s: int) -> float:
    """The median round trip of 64 bytes in one TCP connection, in µs, with nothing else under way."""
    argv = ["ping-pong", "--tcp", "--full-rtt", "-m", "64", "-i", str(pair.target.address), "-p", str(_ROUND_TRIPS)]
    return outputs.round_trip_us(_sockperf(pair, *argv, duration_s=duration_s))


def _connections(pair: Pair, duration_s: int) -> float:
    """TCP connections that were set up each second, one after the other."""
    argv = [sys.executable, "-m", "tests.perf.connections", "dial", str(pair.target.address), str(_CONNECTIONS)]
    text = pair.source.output(*argv, str(duration_s), timeout_s=duration_s + _GRACE_S, env=_python_path())
    try:
        count, seconds = map(float, text.split())
    except ValueError:
        raise NotAFigure(f"no connection: {text.strip()[-200:]}") from None
    return count / seconds


def _ticks() -> int:
    return outputs.busy_ticks(Path("/proc/stat").read_text())


def _idle_ticks_per_s(duration_s: float) -> float:
    """What the machine's processors do each second while nothing is measured."""
    began, before = time.monotonic(), _ticks()
    threading.Event().wait(duration_s)
    return (_ticks() - before) / (time.monotonic() - began)

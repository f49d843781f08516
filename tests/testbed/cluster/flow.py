"""Traffic between the containers of two hosts while something is done to a host, and how much of it was lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from overlayd.errors import CommandFailed
from tests.testbed.cluster.figures import Ping, parse_ping
from tests.testbed.cluster.machine import PROBE, Machine
from tests.testbed.echoes import before_the_end, parse_echoes
from tests.testbed.polling import eventually
from tests.testbed.records import Fault

INTERVAL_S = 0.02
# More than any test waits for.
_AT_MOST_S = 300
_READY_S = 30.0


@dataclass
class Flow:
    """Pings each way, by the direction, and one TCP connection; filled in when the block of `flowing` is left.

    `tcp_bytes` are what each second of the TCP connection carried; `tcp_retransmits` its segments that were sent again.
    """

    pings: dict[str, Ping] = field(default_factory=dict)
    tcp_bytes: list[int] = field(default_factory=list)
    tcp_retransmits: int = 0

    @property
    def lost(self) -> int:
        """How many pings were not answered."""
        return sum(ping.lost for ping in self.pings.values())

    def fault(self, what: str, backend: str) -> Fault:
        """What it cost that something was done to a host, for the night's page: as if what was lost was so at once."""
        worst = max(ping.lost for ping in self.pings.values())
        sent = sum(ping.sent for ping in self.pings.values())
        return Fault(fault=what, backend=backend, sent=sent, lost=self.lost, recovered_s=round(worst * INTERVAL_S, 3))


@contextmanager
def flowing(a: Machine, b: Machine) -> Iterator[Flow]:
    """Ping both ways, and send a steady TCP stream from a to b, for as long as the block lasts."""
    flow = Flow()
    to_a, to_b = a.probe_address(), b.probe_address()
    b.in_probe("sh", "-c", "iperf3 --server --one-off --daemon --port 5310 --logfile /dev/null")
    ping = f"ping -n -i {INTERVAL_S} -c {_AT_MOST_S / INTERVAL_S:.0f}"
    stream = f"iperf3 --json --port 5310 --bitrate 5M --time {_AT_MOST_S} --client {to_b}"
    commands = ((a, "ping", f"{ping} {to_b}"), (b, "ping", f"{ping} {to_a}"), (a, "iperf3", stream))
    outputs: list[Future[str]] = []
    with ThreadPoolExecutor(len(commands)) as pool:
        try:
            for machine, name, command in commands:
                outputs.append(_start(pool, machine, name, command))
            eventually("TCP flows", lambda: ":5310" in a.in_probe("ss", "-Htn", "state", "established"))
            yield flow
            before_the_end()
        finally:
            for machine, name, _command in commands:
                _end(machine, name)
    to, fro, tcp = (one.result() for one in outputs)
    flow.pings = {
        f"{a.name} to {b.name}": _counted(to, INTERVAL_S),
        f"{b.name} to {a.name}": _counted(fro, INTERVAL_S),
    }
    document: dict[str, Any] = json.loads(tcp)
    flow.tcp_bytes = [int(one["sum"]["bytes"]) for one in document["intervals"] if one["sum"]["seconds"] > 0.5]
    flow.tcp_retransmits = sum(int(one["sum"]["retransmits"]) for one in document["intervals"])


@contextmanager
def pinging(source: Machine, target: Machine, *, interval_s: float = 0.2) -> Iterator[Flow]:
    """Ping one way as long as the block lasts, an hour at most.

    Nothing is asked of the target meanwhile: its address may change, and commands to it be cut off.
    """
    flow, address = Flow(), target.probe_address()
    with ThreadPoolExecutor(1) as pool:
        command = f"ping -n -i {interval_s} -c {3600 / interval_s:.0f} {address}"
        output = _start(pool, source, "ping", command)
        try:
            yield flow
            before_the_end()
        finally:
            _end(source, "ping")
    flow.pings = {f"{source.name} to {target.name}": _counted(output.result(), interval_s)}


def _counted(text: str, interval_s: float) -> Ping:
    """The summary of a ping that was interrupted, without the echoes whose answers were on their way."""
    summary, echoes = parse_ping(text), parse_echoes(text, interval_s)
    return replace(summary, sent=echoes.sent, received=len(echoes.answered))


def _start(pool: ThreadPoolExecutor, machine: Machine, name: str, command: str) -> Future[str]:
    """Run a command in the host's container in the background; its id is in a file, its output in the future."""
    machine.in_probe("rm", "-f", f"/tmp/{name}.pid")
    # Its exit status tells no more than what it prints.
    script = f"sh -c 'echo $$ >/tmp/{name}.pid; exec {command}' 2>&1 || true"
    future = pool.submit(machine.in_probe, "sh", "-c", script)

    def runs() -> bool:
        try:
            return bool(machine.in_probe("cat", f"/tmp/{name}.pid").strip())
        except CommandFailed:
            return False

    eventually(f"{name} runs on {machine.name}", runs, timeout_s=max(_READY_S, machine.patience_s))
    return future


def _end(machine: Machine, name: str) -> None:
    """End one, as Ctrl-C does: it prints what it has counted. Tried again where docker exec fails."""
    script = f"test ! -s /tmp/{name}.pid || kill -INT $(cat /tmp/{name}.pid) || ! kill -0 $(cat /tmp/{name}.pid)"
    eventually(
        f"{name} ends",
        lambda: machine.succeeds("docker", "exec", PROBE, "sh", "-c", script),
        timeout_s=machine.patience_s,
    )

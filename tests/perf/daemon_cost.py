"""What our daemon itself costs: memory, processor time while nothing happens, and how soon it acts."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from overlayd.errors import CommandFailed, OverlaydError
from tests.perf import outputs
from tests.perf.layout import DAEMON_FIGURES, alone
from tests.perf.place import Pair
from tests.testbed.cluster.figures import NotAFigure
from tests.testbed.polling import eventually

# Runs etcdctl with these words; what it printed.
Etcdctl = Callable[..., str]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_INTERVAL_S = 0.002
# Whole, as ping takes it.
_WATCHED_S = 4
_CONNECTED_S = 0.7
_REPLY = re.compile(r"^\[([\d.]+)\] \d+ bytes from", re.MULTILINE)


def idle(process: Path, duration_s: float) -> dict[str, Any]:
    """The figures of a process that nobody gives work for that long; `process` is its folder below /proc."""

    def ticks() -> int:
        return outputs.process_ticks((process / "stat").read_text())

    try:
        before, began = ticks(), time.monotonic()
        threading.Event().wait(duration_s)
        percent = (ticks() - before) / _TICKS_PER_S / (time.monotonic() - began) * 100
        pss, private = outputs.memory_bytes((process / "smaps_rollup").read_text())
    except (OSError, NotAFigure) as error:
        reason = {"reason": str(error)}
        return {"idle_cpu_percent": reason, "pss_bytes": reason, "private_bytes": reason}
    return {"idle_cpu_percent": alone([percent]), "pss_bytes": alone([pss]), "private_bytes": alone([private])}


def seconds_until_ready(start: Callable[[str], None]) -> float:
    """How long from `start`, which is handed a NOTIFY_SOCKET, until the daemon says READY=1 there (sd_notify(3)).

    Raises OverlaydError when it does not within a minute.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waiting:
        waiting.bind(f"{folder}/notify")
        waiting.settimeout(60)
        began = time.monotonic()
        start(f"{folder}/notify")
        try:
            while b"READY=1" not in waiting.recv(4096):
                pass
        except TimeoutError:
            raise OverlaydError("the daemon is not ready within 60 s") from None
        return time.monotonic() - began


def several(measure: Callable[[], float], repeat: int) -> dict[str, Any]:
    """A figure measured that often, or the reason why there is none."""
    try:
        return alone([measure() for _ in range(repeat)])
    except (OverlaydError, NotAFigure, AssertionError, OSError, subprocess.SubprocessError) as error:
        return {"reason": str(error).strip()[-500:]}


def unmeasured(error: Exception, backend: str) -> dict[str, Any]:
    """The daemon's part of a place where none of its figures could be measured."""
    reason = {"reason": str(error).strip()[-500:]}
    return {
        "daemon": {figure.key: dict(reason) for figure in DAEMON_FIGURES},
        "daemon_conditions": {"backend": backend},
    }


class LeaseToReply:
    """A host's lease is taken out of etcd and written again, while its daemon does not run and its data path stays.

    `interactive` are the words that run etcdctl with its standard input open. The lease that is written has no time to
    live: who uses it for more than measuring starts the daemon again.
    """

    def __init__(self, pair: Pair, host: IPv4Address, etcdctl: Etcdctl, interactive: Sequence[str]) -> None:
        """Read the host's lease. Raises OverlaydError where it has none."""
        self._pair, self._etcdctl, self._interactive = pair, etcdctl, list(interactive)
        found = json.loads(etcdctl("get", "--prefix", "/coreos.com/network/subnets/", "--write-out=json"))
        for one in found.get("kvs", ()):
            key, value = (base64.b64decode(one[what]).decode() for what in ("key", "value"))
            if json.loads(value).get("PublicIP") == str(host):
                self._key, self._value = key, value
                return
        raise OverlaydError(f"etcd has no lease of {host}")

    def measure(self) -> float:
        """Seconds from the moment when etcd is asked to write the lease until a container hears from the other one's.

        The time that etcd takes to write is part of it. Raises OverlaydError, NotAFigure.
        """
        source, address = self._pair.source, self._pair.target.address
        self._etcdctl("del", self._key)
        eventually("the peer is gone", lambda: not source.reaches(address))
        ping = ["ping", "-n", "-D", "-i", str(_INTERVAL_S), "-w", str(_WATCHED_S)]
        writer = subprocess.Popen(
            [*self._interactive, "txn", "--interactive"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert writer.stdin is not None
        try:
            # No comparison, one request if they are true, and none if not: the last empty line sends it. In double
            # quotes, as etcdctl 3.4 cuts off what is in single ones.
            writer.stdin.write(f"\nput {self._key} {json.dumps(self._value)}\n\n")
            writer.stdin.flush()
            with subprocess.Popen(
                source.words(*ping, str(address)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as pinging:
                threading.Event().wait(_CONNECTED_S)
                written = time.time()
                writer.stdin.write("\n")
                writer.stdin.close()
                output, _ = pinging.communicate(timeout=_WATCHED_S * 3)
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                writer.wait(5)
            writer.kill()
        return first_reply_s(output, written)


def first_reply_s(text: str, written: float) -> float:
    """Seconds from `written`, of the clock, to the first reply in `ping -D`'s output. Pure. Raises NotAFigure."""
    replies = [float(one) for one in _REPLY.findall(text)]
    if not replies:
        raise NotAFigure(f"no reply within {_WATCHED_S:g} s of the lease")
    if replies[0] < written:
        raise NotAFigure("replies came before the lease was written")
    return replies[0] - written


def measured(lease: Callable[[], LeaseToReply], repeat: int) -> dict[str, Any]:
    """The figure of LeaseToReply, or the reason why there is none."""
    try:
        return several(lease().measure, repeat)
    except (CommandFailed, OverlaydError, ValueError) as error:
        return {"reason": str(error)}

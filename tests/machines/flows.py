"""What containers of two machines send each other: bytes by TCP, and packets of a size that nobody may fragment."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.measure import ping
from tests.testbed.polling import eventually
from tests.testbed.records import Connection, Recorder

# An emulated machine of a busy computer: a start of iperf3 alone takes seconds.
TRANSFER_S = 120
MEGABYTE = 1 << 20
_IP_AND_TCP_BYTES, _TIMESTAMP_BYTES = 40, 12
_IP_AND_ICMP_BYTES = 28
# iperf3 ends when all is written: what is in sockets and on the way then is not received. With these buffers, of which
# the kernel doubles each (socket(7)), that is no more than half a megabyte.
_BUFFER_BYTES, _ON_THE_WAY_BYTES = 64 << 10, 1 << 19
_COUNT = 5


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One TCP flow that ended: `source` is the address that its receiver saw, `segment_bytes` the sender's MSS."""

    received_bytes: int
    source: IPv4Address
    segment_bytes: int

    @property
    def packet_bytes(self) -> int:
        """The largest IP packet of the flow: the kernel counts no TCP option as part of the MSS that it reports."""
        return self.segment_bytes + _IP_AND_TCP_BYTES + _TIMESTAMP_BYTES


def transfer(source: Machine, target: Machine, *, count_bytes: int = MEGABYTE, at_most_mbit_s: int = 0) -> Transfer:
    """Send so many bytes by TCP from container to container, and some more that need not be received.

    `at_most_mbit_s` makes it last; 0 is as fast as it goes.

    Raises CommandFailed where they are not received, and acknowledged, within TRANSFER_S: they are in a black hole.
    """
    report, started = "/tmp/transfer.json", "/tmp/transfer.pid"
    # One of before is left where a flow to it broke off.
    target.in_probe("sh", "-c", f"kill $(cat {started}) 2>/dev/null; rm -f {report} {started}")
    target.in_probe(
        *("iperf3", "--json", "--server", "--one-off", "--daemon", "--port", "5311"),
        *("--logfile", report, "--pidfile", started),
    )
    eventually("iperf3 listens", lambda: target.in_probe("ss", "-Hltn", "sport = :5311").strip(), timeout_s=60)
    sent = json.loads(
        source.in_probe(
            *("timeout", str(TRANSFER_S), "iperf3", "--json", "--port", "5311"),
            *("--bytes", str(count_bytes + _ON_THE_WAY_BYTES)),
            *("--bitrate", f"{at_most_mbit_s}M"),
            *("--window", str(_BUFFER_BYTES), "--connect-timeout", "60000", "--client", str(target.probe_address())),
        )
    )
    # The server writes its report when the client has ended.
    text = eventually("the receiver's report", lambda: target.in_probe("cat", report).strip(), timeout_s=60)
    return Transfer(
        received_bytes=sent["end"]["sum_received"]["bytes"],
        source=IPv4Address(json.loads(text)["start"]["accepted_connection"]["host"]),
        segment_bytes=sent["start"]["tcp_mss_default"],
    )


def passes(source: Machine, target: Machine, packet_bytes: int) -> bool:
    """Whether an echo of that size, as a whole IP packet that nobody may fragment, is answered by a container."""
    argv = ["ping", "-n", "-M", "do", "-c", "3", "-i", "0.3", "-W", "5", "-s", str(packet_bytes - _IP_AND_ICMP_BYTES)]
    said = source.in_probe("sh", "-c", f"{' '.join(argv)} {target.probe_address()} 2>&1 || true")
    return bool(re.search(r"[1-9]\d* received", said))


def connect(source: Machine, target: Machine, backend: str, record: Recorder) -> Connection:
    """Ping from container to container, and record how that went for the night's page."""
    found = ping(source.in_probe, target.probe_address(), count=_COUNT, interval_s=1.0)
    connection = Connection(
        source=source.name,
        target=target.name,
        backend=backend,
        docker=source.run("docker", "version", "--format", "{{.Server.Version}}").strip(),
        kernel=source.run("uname", "-r").strip(),
        sent=found.sent,
        lost=found.lost,
    )
    connection.record(record)
    return connection


def has_reached(machine: Machine, target: Machine) -> bool:
    """Whether a daemon says that a container of a peer answered, and which."""
    return any(
        one["state"] == "reached" and one["answered_by"] == str(target.probe_address())
        for one in machine.status()["reach"]
    )

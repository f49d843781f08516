"""`python -m tests.perf.connections serve ADDRESS PORT`, or `dial ADDRESS PORT SECONDS`: connections one by one.

`serve` accepts and closes until it is ended. `dial` connects and closes for that long; it prints how many, and the
seconds. No packaged program does just this: iperf's server ends itself under it, and sockperf's short queue turns it
into a measurement of retransmission timers.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

_QUEUE = 4096
_TIMEOUT_S = 2.0
# Closed by a reset: no socket waits, so that one run does not take the ports of the next (socket(7), SO_LINGER).
_RESET = struct.pack("ii", 1, 0)


def serve(address: str, port: int) -> None:
    """Accept connections for ever."""
    with socket.create_server((address, port), backlog=_QUEUE) as listener:
        while True:
            with contextlib.suppress(OSError):
                listener.accept()[0].close()


def dial(address: str, port: int, duration_s: float) -> tuple[int, float]:
    """Connect until `duration_s` are over; how many connections were made, in how many seconds. Raises OSError."""
    count, began = 0, time.monotonic()
    while (now := time.monotonic()) - began < duration_s:
        with socket.socket() as one:
            one.settimeout(_TIMEOUT_S)
            one.connect((address, port))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        count += 1
    return count, now - began


if __name__ == "__main__":
    word, where, number, *seconds = sys.argv[1:]
    if word == "serve":
        serve(where, int(number))
    sys.stdout.write(" ".join(map(str, dial(where, int(number), float(seconds[0])))))

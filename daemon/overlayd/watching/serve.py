"""The pages of one daemon, and the server for them where one is wanted."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from overlayd.status import Board
from overlayd.watching import pages
from overlayd.watching.metrics import Process
from overlayd.watching.pulse import Pulse

if TYPE_CHECKING:
    from overlayd.watching.server import Server

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def listening(address: str, port: int) -> Iterator[Server | None]:
    """A server that has taken its port but does not answer yet, stopped at the end; None for port 0.

    Raises ConfigError when the port is somebody else's.
    """
    if not port:
        yield None
        return
    # Only where it is wanted: http.server and what it imports cost a megabyte.
    server: Server = import_module("overlayd.watching.server").Server(address, port)
    try:
        yield server
    finally:
        server.stop()


def daemon_pages(board: Board, pulse: Pulse) -> dict[str, Callable[[], pages.Page]]:
    """The pages by path. Each is made when it is asked for, from values, and never waits for anything."""
    return {
        "/healthz": lambda: pages.healthz(pulse.rounds()),
        "/readyz": lambda: pages.readyz(board.status, pulse.late()),
        "/metrics": lambda: pages.metrics_page(board.status, pulse.late(), read_process()),
    }


def read_process() -> Process:
    """This process as the kernel sees it (proc(5))."""
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Process(
        cpu_s=time.process_time(),
        resident_bytes=resident_pages * _PAGE_BYTES,
        threads=sum(1 for _ in Path("/proc/self/task").iterdir()),
        python=platform.python_version(),
    )

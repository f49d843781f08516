"""The endpoints of one daemon, and the port that they are served on, where healthz-port is set."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from overlayd.lib.log import logger
from overlayd.monitoring import endpoints
from overlayd.monitoring.endpoints import Endpoints
from overlayd.monitoring.liveness import Liveness
from overlayd.monitoring.metrics import Process
from overlayd.monitoring.status_file import StatusFile

if TYPE_CHECKING:
    from overlayd.monitoring.http_server import Server

log = logger("monitoring")

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MonitoringPort:
    """The TCP port of /healthz, /readyz and /metrics. While another program has it, it is tried again.

    So no user of this host can keep the daemon from its work by taking the port.
    """

    def __init__(self, address: str, port: int) -> None:
        """Take the port, 0 for none; clients wait until `start`. Raises ConfigError where only a person can help."""
        self._address = (address, port)
        self._server: Server | None = None
        self._endpoints: Endpoints | None = None
        self.problem: str | None = None
        self.retry()

    @property
    def where(self) -> str | None:
        """Address and port as they stand in a URL; None while there is no server."""
        return self._server.where if self._server else None

    def start(self, endpoints: Endpoints) -> None:
        """Begin to serve, now or as soon as the port is free."""
        self._endpoints = endpoints
        if self._server is not None:
            self._server.start(endpoints)

    def retry(self) -> str | None:
        """Take the port where another program had it; returns the problem while it still has."""
        address, port = self._address
        if not port or self._server is not None:
            return None
        # Only where the port is set: http.server and what it imports cost a megabyte.
        module = import_module("overlayd.monitoring.http_server")
        try:
            self._server = module.Server(address, port)
            self.problem = None
        except module.PortTaken as error:
            if self.problem is None:
                log.warning("going on without, and trying again", problem=error.message, hint=error.hint)
            self.problem = error.message
        if self._endpoints is not None and self._server is not None:
            self._server.start(self._endpoints)
        return self.problem

    def stop(self) -> None:
        """Close the port and every client's connection."""
        if self._server is not None:
            self._server.stop()


@contextmanager
def monitoring_port(address: str, port: int) -> Iterator[MonitoringPort]:
    """The port, taken where it is free, which does not answer yet; closed at the end of the block.

    Raises ConfigError where this host does not have the address, or may not take the port.
    """
    taken = MonitoringPort(address, port)
    try:
        yield taken
    finally:
        taken.stop()


def daemon_endpoints(status_file: StatusFile, liveness: Liveness) -> Endpoints:
    """What answers each path. A response is made for each request, from values, and never waits for anything."""
    return {
        "/healthz": lambda: endpoints.healthz(liveness.rounds()),
        "/readyz": lambda: endpoints.readyz(status_file.status, liveness.late()),
        "/metrics": lambda: endpoints.metrics(status_file.status, liveness.late(), read_process()),
    }


def read_process() -> Process:
    """This process as the kernel sees it (proc(5))."""
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Process(
        cpu_s=time.process_time(),
        resident_bytes=resident_pages * _PAGE_BYTES,
        threads=sum(1 for _ in Path("/proc/self/task").iterdir()),
        python=platform.python_version(),
        clock_s=time.time(),
    )

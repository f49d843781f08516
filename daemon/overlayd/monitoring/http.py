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

from overlayd.lib.log import logger
from overlayd.monitoring import endpoints
from overlayd.monitoring.liveness import Liveness
from overlayd.monitoring.metrics import Process
from overlayd.monitoring.status_file import StatusFile

if TYPE_CHECKING:
    from overlayd.monitoring.http_server import Server

log = logger("watching")

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Watch:
    """The port that the daemon is watched at. One that somebody has is tried again: no user of this host, by taking it,
    keeps the daemon from its work.
    """

    def __init__(self, address: str, port: int) -> None:
        """Take the port, 0 for none; who connects waits until `start`. Raises ConfigError where only a person helps."""
        self._where = (address, port)
        self._server: Server | None = None
        self._pages: dict[str, Callable[[], endpoints.Page]] | None = None
        self.problem: str | None = None
        self.look()

    @property
    def where(self) -> str | None:
        """Address and port as they stand in a URL; None while there is no server."""
        return self._server.where if self._server else None

    def start(self, served: dict[str, Callable[[], endpoints.Page]]) -> None:
        """Begin to serve, now or when the port is had."""
        self._pages = served
        if self._server is not None:
            self._server.start(served)

    def look(self) -> str | None:
        """Try to take a port that is not had yet; what is wrong, if anything."""
        address, port = self._where
        if not port or self._server is not None:
            return None
        # Only where it is wanted: http.server and what it imports cost a megabyte.
        module = import_module("overlayd.monitoring.http_server")
        try:
            self._server = module.Server(address, port)
            self.problem = None
        except module.PortTaken as error:
            if self.problem is None:
                log.warning("going on without, and trying again", problem=error.message, hint=error.hint)
            self.problem = error.message
        if self._pages is not None and self._server is not None:
            self._server.start(self._pages)
        return self.problem

    def stop(self) -> None:
        """Let go of the port and of every client."""
        if self._server is not None:
            self._server.stop()


@contextmanager
def listening(address: str, port: int) -> Iterator[Watch]:
    """A watch that has taken its port, if that can be had, but does not answer yet; stopped at the end.

    Raises ConfigError where the address is none of this host, or the port is not for us.
    """
    watch = Watch(address, port)
    try:
        yield watch
    finally:
        watch.stop()


def daemon_pages(status_file: StatusFile, liveness: Liveness) -> dict[str, Callable[[], endpoints.Page]]:
    """The pages by path. Each is made when it is asked for, from values, and never waits for anything."""
    return {
        "/healthz": lambda: endpoints.healthz(liveness.rounds()),
        "/readyz": lambda: endpoints.readyz(status_file.status, liveness.late()),
        "/metrics": lambda: endpoints.metrics_page(status_file.status, liveness.late(), read_process()),
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

"""An etcd on this very host, perhaps a container of its docker: then docker has to start before overlayd is ready.

After a reboot overlayd waits for etcd, docker for overlayd, and such an etcd for docker. So once etcd has not answered
for a while, docker may start on the subnet of the last run; then etcd answers, and overlayd goes on as always.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from overlayd.docker import options as docker_options
from overlayd.docker.dockerd_config import read_dockerd_config
from overlayd.errors import ConfigError, OverlaydError
from overlayd.kernel import interfaces
from overlayd.lib.addresses import ip_address
from overlayd.lib.files import write_atomically
from overlayd.lib.log import logger
from overlayd.lib.notify import notify
from overlayd.settings import Settings
from overlayd.store.endpoints import parse_endpoints

log = logger("docker")

# An etcd that does not need this docker has answered by then.
AFTER_S = 30.0
WAY_OUT = (
    "systemctl disable --now overlayd && systemctl start docker",
    "once etcd answers: systemctl enable --now overlayd",
)


class EarlyDockerStart:
    """Lets docker start on the subnet of the last run, once in this run. Called in one thread."""

    def __init__(
        self, settings: Settings, *, after_s: float = AFTER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Does nothing yet. `after_s` seconds of `clock` are counted from here."""
        self._settings = settings
        self._clock = clock
        self._due_at = clock() + after_s
        self._outcome: str | None = None

    def look(self) -> str | None:
        """To be called while etcd has not answered yet. A sentence for the status: what was done, or what to do."""
        if self._outcome is None and self._clock() >= self._due_at and etcd_is_here(self._settings.etcd_endpoints):
            self._outcome = self._let_start()
        return self._outcome

    def _let_start(self) -> str:
        run_dir = self._settings.run_dir
        try:
            if not (run_dir / docker_options.DOCKER_ENV).exists():
                record = (self._settings.state_dir / docker_options.RECORD).read_text()
                write_atomically(run_dir / docker_options.RECORD, record)
                docker_options.prepare(run_dir, read_dockerd_config(), anew=False)
        except (OSError, ValueError, OverlaydError) as error:
            log.error("etcd is on this host, and docker cannot start before it answers", problem=error)
            return (
                "etcd is on this host and does not answer: if it is a container of this docker, "
                f"overlayd and docker wait for each other; run: {WAY_OUT[0]}, and {WAY_OUT[1]}"
            )
        outcome = "docker may start on the subnet of the last run meanwhile, as etcd is on this host"
        log.warning("etcd does not answer", docker=outcome)
        # docker.service is ordered after overlayd.service: systemd starts it once overlayd is ready.
        notify(ready=True)
        return outcome


def remember(state_dir: Path, record: str) -> None:
    """Keep docker.json for the next boot. Never raises: a full disk must not stop the daemon."""
    with contextlib.suppress(OSError):
        write_atomically(state_dir / docker_options.RECORD, record, mode=0o600)


def remembers(settings: Settings) -> bool:
    """Whether there is a subnet of the last run for docker; False where this user may not see that."""
    for path in (settings.run_dir / docker_options.DOCKER_ENV, settings.state_dir / docker_options.RECORD):
        with contextlib.suppress(OSError):
            path.stat()
            return True
    return False


def etcd_is_here(endpoints: Sequence[str]) -> bool:
    """Whether one of etcd's servers has an address of this host. Names are not looked up in DNS."""
    try:
        hosts = {endpoint.host for endpoint in parse_endpoints(endpoints)}
    except ConfigError:
        return False
    if hosts & {"localhost", socket.gethostname()}:
        return True
    own = interfaces.own_addresses()
    for host in hosts:
        with contextlib.suppress(ValueError):
            address = ip_address(host)
            if address.is_loopback or address in own:
                return True
    return False

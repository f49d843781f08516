"""Where etcd runs on this very host, perhaps as a container of the docker that waits for us: docker may start first.

After a reboot overlayd waits for etcd, docker for overlayd, and such an etcd for docker. So docker is let start on the
subnet of the last run, once etcd did not answer for a while; from then on all goes as ever.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
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

# An etcd that is no container here has answered by then.
AFTER_S = 30.0
WAY_OUT = (
    "systemctl disable --now overlayd && systemctl start docker",
    "once etcd answers: systemctl enable --now overlayd",
)


class EarlyDockerStart:
    """Lets docker start on the remembered subnet, once in a run. Called in one thread."""

    def __init__(self, settings: Settings, *, after_s: float = AFTER_S) -> None:
        """Nothing is done yet; `after_s` seconds are counted from here."""
        self._settings = settings
        self._due_at = time.monotonic() + after_s
        self._said: str | None = None

    def look(self) -> str | None:
        """To be called while etcd has not answered in this run: what was done, or is to be done, for the status."""
        if self._said is None and time.monotonic() >= self._due_at and etcd_is_here(self._settings.etcd_endpoints):
            self._said = self._let_start()
        return self._said

    def _let_start(self) -> str:
        run_dir = self._settings.run_dir
        try:
            if not (run_dir / docker_options.DOCKER_ENV).exists():
                record = (self._settings.state_dir / docker_options.RECORD).read_text()
                write_atomically(run_dir / docker_options.RECORD, record)
                docker_options.prepare(run_dir, read_dockerd_config(), anew=False)
        except (OSError, ValueError, OverlaydError) as error:
            log.error("etcd is this host, and docker cannot start before it", problem=error)
            return (
                "etcd is this very host: is it a container of this docker, each waits for the other; "
                f"run: {WAY_OUT[0]}, and {WAY_OUT[1]}"
            )
        said = "docker may start on the subnet of the last run meanwhile, as etcd is this very host"
        log.warning("etcd does not answer", docker=said)
        # docker.service comes after us, and waits for this word.
        notify(ready=True)
        return said


def remember(state_dir: Path, record: str) -> None:
    """Keep what docker was told for the next boot. A full disk is no reason to stop: never raises."""
    with contextlib.suppress(OSError):
        write_atomically(state_dir / docker_options.RECORD, record, mode=0o600)


def remembers(settings: Settings) -> bool:
    """Whether docker could be let start; False where that is not for us to see."""
    for path in (settings.run_dir / docker_options.DOCKER_ENV, settings.state_dir / docker_options.RECORD):
        with contextlib.suppress(OSError):
            path.stat()
            return True
    return False


def etcd_is_here(endpoints: Sequence[str]) -> bool:
    """Whether one of etcd's servers has an address of this host. A name that only DNS knows is not asked for."""
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

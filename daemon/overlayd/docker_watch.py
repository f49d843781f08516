"""Docker beside a daemon that runs: looked at again and again, and settled as far as the settings allow."""

from __future__ import annotations

import time
from pathlib import Path

from overlayd import docker, firewall
from overlayd.kernel import interfaces
from overlayd.log import logger

log = logger("docker")


class DockerWatch:
    """What docker has to be told on this host, and what it does instead. All in one thread."""

    def __init__(
        self, *, restart: str, lasting_s: float, firewalled: bool = True, daemon_json: Path = docker.DAEMON_JSON
    ) -> None:
        """`restart` is the setting docker-restart; a problem counts for it once it has lasted `lasting_s` seconds.

        `firewalled`: rules of ours rely on what dockerd is told of them.
        """
        self._daemon_json = daemon_json
        self._firewalled = firewalled
        self._restart = restart
        self._lasting_s = lasting_s
        self._options: list[str] | None = None
        self._conflicts: tuple[str, ...] = ()
        self._bridge_problem: str | None = None
        self._wrong_since = 0.0
        # What was acted on already. A restart that did not help is not tried again: containers died for it.
        self._settled: set[tuple[str, ...]] | None = None

    @property
    def options(self) -> list[str]:
        """dockerd's flags as of the last look."""
        return self._options or []

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with daemon.json and with docker0, as of the last look."""
        return (*self._conflicts, self._bridge_problem) if self._bridge_problem else self._conflicts

    def look(self, want: docker.Wanted) -> None:
        """Look at daemon.json and at docker0's addresses. A new problem is logged."""
        daemon_json, problems = docker.read_daemon_json(self._daemon_json)
        if not problems or self._options is None:
            # One that cannot be read, perhaps for being written right now, leaves the flags as they are.
            also = firewall.docker_options_needed(daemon_json) if self._firewalled else {}
            self._options, conflicts = docker.flags(want, daemon_json, also)
            problems = [*problems, *conflicts]
        for problem in problems:
            if problem not in self._conflicts:
                log.error("docker is configured against the lease", problem=problem)
        self._conflicts = tuple(problems)
        self._look_at_bridge(want)

    def settle(self) -> None:
        """Start or restart docker where the settings allow it, else say what has to be done.

        Once at first, then once for each new problem with docker0 that lasts: docker may be on its way. While
        daemon.json contradicts the lease no restart could help.
        """
        first, problem = self._settled is None, self._bridge_problem
        settled = self._settled = self._settled or set()
        lasts = problem is not None and time.monotonic() - self._wrong_since >= self._lasting_s
        if first or (lasts and self.problems not in settled):
            docker.settle(problem, restart="never" if self._conflicts else self._restart)
            if problem is not None:
                settled.add(self.problems)

    def _look_at_bridge(self, want: docker.Wanted) -> None:
        addresses = interfaces.interface_addresses(docker.BRIDGE)
        problem = docker.bridge_problem(want.subnets, addresses)
        if problem and problem != self._bridge_problem:
            log.warning("docker is not on the leased subnet", problem=problem)
            self._wrong_since = time.monotonic()
        if addresses is not None and problem is None and self._settled:
            self._settled.clear()
        self._bridge_problem = problem

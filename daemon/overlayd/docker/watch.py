"""Docker beside a daemon that runs: looked at again and again, and settled as far as the settings allow."""

from __future__ import annotations

import contextlib
import time
from ipaddress import IPv4Network
from pathlib import Path

from overlayd.docker import flags as docker_flags
from overlayd.docker import options as docker_options
from overlayd.docker import remedies as docker_remedies
from overlayd.docker import service as docker_service
from overlayd.docker.dockerd_config import read_dockerd_config
from overlayd.docker.service import DockerService
from overlayd.errors import CommandFailed
from overlayd.kernel import interfaces
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.log import logger

log = logger("docker")

# Asking systemd takes some milliseconds of a child; looks may come twice a second.
ASK_EVERY_S = 5.0
# Rules of others, two more children, are read at each so many of these looks.
RULES_EVERY = 6


class DockerWatch:
    """What docker has to be told on this host, and what it does instead. All in one thread."""

    def __init__(
        self,
        *,
        restart: str,
        lasting_s: float,
        firewalled: bool = True,
        masquerade: bool = False,
        network: IPNetwork | None = None,
        daemon_json: Path | None = None,
    ) -> None:
        """`restart` is the setting docker-restart; a problem counts for it once it has lasted `lasting_s` seconds.

        `firewalled`: rules of ours rely on what dockerd is told of them. `masquerade`: the setting ip-masq;
        `network`: outside of it, that is. `daemon_json`: if not where docker has it.
        """
        self._daemon_json = daemon_json
        self._firewalled = firewalled
        # Docker is told not to, and we keep no rules: somebody else has to.
        self._others_masquerade = masquerade and not firewalled
        self._network = network
        self._subnet: IPv4Network | None = None
        self._masqueraded = True
        self._rules_due_at = float("-inf")
        self._restart = restart
        self._lasting_s = lasting_s
        self._options: list[str] | None = None
        self._conflicts: tuple[str, ...] = ()
        self._live_restore = False
        self._bridge_problem: str | None = None
        self._service: DockerService | None = None
        self._down: str | None = None
        # What the dockerd that runs was started with, if one does.
        self._argv: tuple[str, ...] | None = None
        self._different: dict[str, str] = {}
        self._asked_at = float("-inf")
        self._wrong_since = 0.0
        # What was acted on already. A restart that did not help is not tried again: containers died for it.
        self._settled: set[tuple[str, ...]] | None = None

    @property
    def options(self) -> list[str]:
        """dockerd's flags as of the last look."""
        return self._options or []

    @property
    def problems(self) -> tuple[str, ...]:
        """What docker is told against the lease, and what is wrong with it and with docker0, as of the last look."""
        otherwise = docker_service.started_otherwise(self._different, self._service)
        bridge = self._bridge_problem
        if bridge is not None and not self._conflicts:
            bridge += f"; run: {docker_remedies.onto_the_lease(live_restore=self._live_restore)}"
        found = (*self._conflicts, self._down, otherwise, bridge, self._nobody_masquerades())
        return tuple(problem for problem in found if problem)

    @property
    def warnings(self) -> tuple[str, ...]:
        """That docker's next start would go wrong."""
        not_ours = None if self._different else docker_service.not_ours(self._service)
        return (not_ours,) if not_ours else ()

    def _nobody_masquerades(self) -> str | None:
        """That containers do not reach what is outside the network."""
        if self._masqueraded or self._subnet is None:
            return None
        return str(docker_service.outside().nobody(str(self._network), str(self._subnet)))

    def record(self, want: docker_options.DesiredDockerOptions) -> str:
        """docker.json: what `overlayd docker prepare` needs to know of us."""
        return docker_options.record(want, firewalled=self._firewalled)

    def look(self, want: docker_options.DesiredDockerOptions) -> None:
        """Look at what docker is told, at dockerd, and at docker0's addresses. A new problem is logged."""
        before, wrong_before = self.problems, self._mended_by_restart()
        told = read_dockerd_config(daemon_json=self._daemon_json)
        options, conflicts = docker_options.plan(want, told, firewalled=self._firewalled)
        if told.daemon_json is not None or self._options is None:
            # One that cannot be read, perhaps for being written right now, leaves the flags as they are.
            self._options = options
            self._conflicts = tuple(conflicts)
        else:
            self._conflicts = told.problems
        self._live_restore = told.settings.get("live-restore") is True
        self._subnet = want.subnets.v4
        self._ask()
        self._different = dict(docker_service.differences(self._argv, self._options, told))
        addresses = interfaces.interface_addresses(docker_options.BRIDGE)
        at_rest = self._service is not None and self._service.at_rest
        self._bridge_problem = None if at_rest else docker_options.bridge_problem(want.subnets, addresses)
        wrong = self._mended_by_restart()
        if wrong and wrong != wrong_before:
            self._wrong_since = time.monotonic()
        if addresses is not None and wrong is None and self._settled:
            self._settled.clear()
        for problem in self.problems:
            if problem not in before:
                log.error("docker is not as the lease needs it", problem=problem)

    def settle(self) -> None:
        """Start or restart docker where the settings allow it, else say what has to be done.

        Once at first, then once for each new problem with docker0 or with dockerd's options that lasts: docker may be
        on its way. While what docker is told contradicts the lease no restart could help.
        """
        first, problem = self._settled is None, self._mended_by_restart()
        settled = self._settled = self._settled or set()
        lasts = problem is not None and time.monotonic() - self._wrong_since >= self._lasting_s
        if first or (lasts and self.problems not in settled):
            docker_service.settle(problem, restart=self._restart_now())
            self._asked_at = float("-inf")
            if problem is not None:
                settled.add(self.problems)

    def _restart_now(self) -> str:
        if self._conflicts or (self._service is not None and self._service.missing):
            # It would come up the same.
            return "never"
        # With live-restore a dockerd that starts beside containers leaves its bridge as it is.
        return "idle" if self._live_restore and self._restart == "always" else self._restart

    def _mended_by_restart(self) -> str | None:
        if self._bridge_problem or not any(name in docker_flags.OURS for name in self._different):
            # What others decided for docker and did not restart it for is theirs.
            return self._bridge_problem
        return docker_service.started_otherwise(self._different, self._service)

    def _ask(self) -> None:
        now = time.monotonic()
        if now - self._asked_at < min(ASK_EVERY_S, self._lasting_s):
            return
        self._asked_at = now
        self._service = docker_service.read_service()
        down = docker_service.down(self._service)
        self._down = f"{down}; {docker_service.up_again(self._service)}" if down and self._service else down
        self._argv = docker_service.dockerd_argv(self._service)
        if self._others_masquerade and self._subnet is not None and now >= self._rules_due_at:
            self._rules_due_at = now + RULES_EVERY * self._lasting_s
            with contextlib.suppress(CommandFailed):
                self._masqueraded = docker_service.somebody_masquerades(self._subnet)

"""Watches docker while the daemon runs, and decides when docker is started or restarted (`DockerWatch.settle`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

from overlayd.docker import flags as docker_flags
from overlayd.docker import masquerade
from overlayd.docker import options as docker_options
from overlayd.docker import remedies as docker_remedies
from overlayd.docker import service as docker_service
from overlayd.docker.dockerd_config import DockerdConfig, DockerdConfigReader
from overlayd.docker.processes import DockerdSearch, runs
from overlayd.docker.service import DockerService
from overlayd.errors import CommandFailed
from overlayd.kernel import interfaces
from overlayd.lib.addresses import IPInterface, IPNetwork
from overlayd.lib.log import logger

log = logger("docker")

# systemd is asked at most this often: each time costs a child process, and `look` may be called twice a second. And the
# processes are searched for a dockerd where systemd knows none.
STATE_EVERY_S = 5.0
# While docker's process runs on and all is well: what else may change, as drop-ins, matters at the next start only. And
# where there is no systemd, or it knows no docker.service: a unit that comes is a change of the configuration.
STEADY_EVERY_S = 30.0
# Firewall rules of others, which cost two more child processes, are read every RULES_EVERY resyncs.
RULES_EVERY = 6


class DockerWatch:
    """dockerd's options for the lease, and how docker on this host differs from them. Called in one thread."""

    def __init__(
        self,
        *,
        restart: str,
        lasting_s: float,
        firewalled: bool = True,
        masquerade: bool = False,
        network: IPNetwork | None = None,
        daemon_json: Path | None = None,
        config: DockerdConfigReader | None = None,
        addresses_of: Callable[[str], tuple[IPInterface, ...] | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`restart` is the setting docker-restart; docker is restarted for problems that lasted `lasting_s` seconds.

        `firewalled`: overlayd writes firewall rules. `masquerade` is the setting ip-masq: what leaves `network` gets
        the host's address. `daemon_json` is the path of that file where it is not Docker's own. `config` is a reader
        that others share, and `addresses_of` gives the addresses of an interface. `clock` gives seconds and never goes
        back.
        """
        self._read_config = (config or DockerdConfigReader(daemon_json=daemon_json, clock=clock)).read
        self._addresses_of = addresses_of
        self._firewalled = firewalled
        self._clock = clock
        # Docker is started with --ip-masq=false, and overlayd writes no rules: somebody else has to masquerade.
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
        self._config = DockerdConfig()
        self._down: str | None = None
        # The command line of the running dockerd; None while none runs.
        self._argv: tuple[str, ...] | None = None
        self._different: dict[str, str] = {}
        self._asked_at = self._searched_at = float("-inf")
        self._search = DockerdSearch(clock)
        self._problem_since = 0.0
        # Problems for which docker was restarted already; None before the first `settle`. A restart that did not solve
        # a problem is not repeated, as it stops containers.
        self._settled: set[tuple[str, ...]] | None = None

    @property
    def options(self) -> list[str]:
        """The flags that dockerd needs, as of the last `look`."""
        return self._options or []

    @property
    def problems(self) -> tuple[str, ...]:
        """What contradicts the lease in docker's configuration, its state and docker0, as of the last `look`."""
        restart = docker_service.restart_needed(self._different, self._service)
        bridge = self._bridge_problem
        if bridge is not None and not self._conflicts:
            bridge += f"; run: {docker_remedies.onto_the_lease(live_restore=self._live_restore)}"
        found = (*self._conflicts, self._down, restart, bridge, self._nobody_masquerades())
        return tuple(problem for problem in found if problem)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why docker's next start would not get the subnet, if that is so."""
        missing = None if self._different else docker_service.missing_drop_ins(self._service)
        return (missing,) if missing else ()

    def _nobody_masquerades(self) -> str | None:
        """A sentence where nobody masquerades, so that containers do not reach what is outside the network."""
        if self._masqueraded or self._subnet is None:
            return None
        return masquerade.problem(str(self._network), str(self._subnet))

    def record(self, desired: docker_options.DesiredDockerOptions) -> str:
        """The text of docker.json, which `overlayd docker prepare` reads."""
        return docker_options.record(desired, firewalled=self._firewalled)

    def look(self, desired: docker_options.DesiredDockerOptions) -> None:
        """Read docker's configuration, its state and docker0's addresses. A new problem is logged."""
        before, reason_before = self.problems, self._restart_reason()
        config = self._read_config()
        if config != self._config:
            self._asked_at = float("-inf")
        self._config = config
        options, conflicts = docker_options.plan(desired, config, firewalled=self._firewalled)
        if config.daemon_json is not None or self._options is None:
            # While daemon.json cannot be read, perhaps because somebody is writing it, the flags stay as they are.
            self._options = options
            self._conflicts = tuple(conflicts)
        else:
            self._conflicts = config.problems
        self._live_restore = config.settings.get("live-restore") is True
        self._subnet = desired.subnets.v4
        self._read_state()
        self._different = dict(docker_service.differences(self._argv, self._options, config))
        addresses = (self._addresses_of or interfaces.interface_addresses)(docker_options.BRIDGE)
        at_rest = self._service is not None and self._service.at_rest
        self._bridge_problem = None if at_rest else docker_options.bridge_problem(desired.subnets, addresses)
        reason = self._restart_reason()
        if reason and reason != reason_before:
            self._problem_since = self._clock()
        if addresses is not None and reason is None and self._settled:
            self._settled.clear()
        for problem in self.problems:
            if problem not in before:
                log.error("docker does not fit the lease", problem=problem)

    def settle(self) -> None:
        """Start or restart docker where the settings allow it, else log what has to be done.

        That happens at the first call, then once for each new problem with docker0 or with dockerd's options that
        lasts: docker may just be starting. Nothing is restarted while docker's configuration contradicts the lease.
        """
        first, problem = self._settled is None, self._restart_reason()
        settled = self._settled = self._settled or set()
        lasts = problem is not None and self._clock() - self._problem_since >= self._lasting_s
        if first or (lasts and self.problems not in settled):
            docker_service.settle(self._config, problem, restart=self._allowed_restart())
            self._asked_at = float("-inf")
            if problem is not None:
                settled.add(self.problems)

    def _allowed_restart(self) -> str:
        if self._conflicts or (self._service is not None and self._service.missing):
            # A restart would change nothing.
            return "never"
        # With live-restore a dockerd that starts while containers run does not change its bridge.
        return "idle" if self._live_restore and self._restart == "always" else self._restart

    def _restart_reason(self) -> str | None:
        """The problem that a restart of docker solves; None without one."""
        if self._bridge_problem or not any(name in docker_flags.OURS for name in self._different):
            # Only options of others differ: somebody changed them and did not restart docker. That is left to them.
            return self._bridge_problem
        return docker_service.restart_needed(self._different, self._service)

    def _is_steady(self) -> bool:
        """Whether docker is as it should be, and the process that was seen last still runs: nobody restarted it.

        Or systemd knows of no docker.
        """
        if self.problems:
            return False
        if self._service is None:
            return True
        return self._service.state == "active" and bool(self._service.pid) and runs(self._service.pid)

    def _read_state(self) -> None:
        now, often_s = self._clock(), min(STATE_EVERY_S, self._lasting_s)
        if now - self._asked_at >= (STEADY_EVERY_S if self._is_steady() else often_s):
            self._asked_at, self._searched_at = now, float("-inf")
            self._service = docker_service.read_service(self._config)
            down = docker_service.down(self._service)
            self._down = f"{down}; {docker_service.start_command(self._service)}" if down and self._service else down
        elif self._service is not None:
            return
        if now - self._searched_at >= often_s:
            self._searched_at = now
            self._argv = docker_service.dockerd_argv(self._service, self._search)
            self._read_rules(now)

    def _read_rules(self, now: float) -> None:
        if self._others_masquerade and self._subnet is not None and now >= self._rules_due_at:
            self._rules_due_at = now + RULES_EVERY * self._lasting_s
            with contextlib.suppress(CommandFailed):
                self._masqueraded = docker_service.somebody_masquerades(self._subnet)

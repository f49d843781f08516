"""Which network config this host serves: the last good one, until etcd has another that this host can serve."""

from __future__ import annotations

from overlayd import backends
from overlayd.errors import NetworkConfigError, UnsupportedError
from overlayd.host.backend import backend_here
from overlayd.leases.conflicts import CurrentNeeds
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.registry import Registry
from overlayd.lib.counters import counter
from overlayd.lib.log import logger
from overlayd.monitoring.status_file import StatusFile
from overlayd.settings import Settings
from overlayd.underlay import host_needs
from overlayd.underlay.watch import UnderlayWatch

log = logger("daemon")

CONFIG_ERRORS = counter(
    "overlayd_network_config_errors_total", "Times that the network config in etcd was found missing or wrong."
)


class ServedConfig:
    """The network config that is served, compared with the one in etcd. Called in one thread."""

    def __init__(
        self, settings: Settings, registry: Registry, underlay: UnderlayWatch, status_file: StatusFile
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._underlay = underlay
        self._status_file = status_file
        self._refused: tuple[NetworkConfig, str] | None = None
        self.served: NetworkConfig | None = None
        """The last one under which this host was ready; None before."""

    def choose(self) -> NetworkConfig:
        """The config to serve next: the served one where that is to go on. Raises StoreError, NetworkConfigError."""
        if self.served is not None and self.goes_on(self.served):
            return self.served
        return self._registry.network_config()

    def refuse(self, config: NetworkConfig, problem: str) -> None:
        """Do not serve this config again before the next start of the daemon."""
        self._refused = config, f"{problem}; it waits for another config, or a restart"

    def goes_on(self, config: NetworkConfig) -> bool:
        """Whether to go on with the served config. Where etcd has no good one, the status says what is wrong with it.

        A config that is deleted, becomes invalid, or is refused by this host does not end the network that works.
        """
        try:
            now = self._registry.network_config()
            if now != config:
                self._require_accepted(now, config)
        except NetworkConfigError as error:
            if self._status_file.status.problem != error.message:
                CONFIG_ERRORS.add()
                log.error("the network config went bad; serving the last good one", problem=error.message)
            self._status_file.update(problem=error.message)
            return True
        self._status_file.update(problem=None)
        # Called when the served config ends, and again before the next one begins: the change is logged once.
        if now != config and self._status_file.status.state != "starting":
            log.warning("the network config changed", network=now, backend=now.backend_type)
            self._status_file.update(state="starting")
        return now == config

    def _require_accepted(self, now: NetworkConfig, served: NetworkConfig) -> None:
        """Raise NetworkConfigError where this host cannot serve the config `now`, or only after a restart."""
        if self._refused is not None and self._refused[0] == now:
            raise NetworkConfigError(self._refused[1])
        here = CurrentNeeds(needed=host_needs.now(self._settings.etcd_endpoints))
        try:
            backend_here(self._settings, now, self._underlay.look(now.versions).only(now.versions), here)
        except UnsupportedError as error:
            raise NetworkConfigError(error.message, hint=error.hint) from error
        if backends.needs_restart(served, now):
            raise NetworkConfigError(
                "the network config has other commands, and a running daemon does not change its commands; "
                "it waits for `systemctl restart overlayd`"
            )

"""Which network config this host serves: the last good one, until another comes that this host can have."""

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
        """Do not serve this config any more, until it is another one, or the daemon is started again."""
        self._refused = config, f"{problem}; it waits for another config, or a restart"

    def goes_on(self, config: NetworkConfig) -> bool:
        """Whether to go on with the config that is served. The status says why where etcd has none that is good.

        A config that went bad or away, or that this host refuses, takes no host off a network that works.
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
        # This is asked twice: when the one served ends, and before the next begins. It is logged once.
        if now != config and self._status_file.status.state != "starting":
            log.warning("the network config changed", network=now, backend=now.backend_type)
            self._status_file.update(state="starting")
        return now == config

    def _require_accepted(self, now: NetworkConfig, served: NetworkConfig) -> None:
        """Raise NetworkConfigError where this host does not change to that config, at all or without a restart."""
        if self._refused is not None and self._refused[0] == now:
            raise NetworkConfigError(self._refused[1])
        here = CurrentNeeds(needed=host_needs.now(self._settings.etcd_endpoints))
        try:
            backend_here(self._settings, now, self._underlay.look(now.versions).only(now.versions), here)
        except UnsupportedError as error:
            raise NetworkConfigError(error.message, hint=error.hint) from error
        if backends.needs_restart(served, now):
            raise NetworkConfigError(
                "the network config has other commands to run, which no running daemon takes; "
                "it waits for `systemctl restart overlayd`"
            )

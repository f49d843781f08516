"""The part of the host that warns of unknown keys in the network config."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

from overlayd.errors import StoreError
from overlayd.host.backend import unknown_keys
from overlayd.host.parts import DesiredHost, HostContext, PartReport
from overlayd.leases.registry import Registry
from overlayd.lib.log import logger

log = logger("host")


class UnknownKeys:
    """Looks at the network config in etcd each time: unknown keys may be the only change to it."""

    name: ClassVar[str] = "network config"

    def __init__(self, context: HostContext, registry: Registry) -> None:
        self._context = context
        self._registry = registry
        self._logged: tuple[str, ...] = ()

    def sync(self, desired: DesiredHost) -> PartReport:  # noqa: ARG002
        """Warn of every key that is not read. Each is logged once."""
        config = self._context.config
        with suppress(StoreError):
            now = self._registry.network_config()
            # Configs that differ in unknown keys only are equal. Any other config in etcd is not served yet.
            config = now if now == config else config
        found = tuple(text for text, _known in unknown_keys(config))
        for problem in found:
            if problem not in self._logged:
                log.warning("the network config has an unknown key", problem=problem)
        self._logged = found
        return PartReport(warnings=found)

    def close(self) -> None:
        """Nothing is held."""

"""The part of the host that tells a running firewalld what to let through."""

from __future__ import annotations

from typing import ClassVar

from overlayd import firewalld
from overlayd.host.data_path import DataPath
from overlayd.host.firewall import overlays
from overlayd.host.parts import DesiredHost, HostContext, PartReport


class FirewalldPart:
    """Keeps firewalld's policies and ipsets those of the peers that are served."""

    name: ClassVar[str] = "firewalld"

    def __init__(self, context: HostContext, data_path: DataPath) -> None:
        """Changes nothing yet."""
        self._context = context
        self._data_path = data_path
        self._firewalld = firewalld.Firewalld(enabled=context.settings.firewall != "none")

    def sync(self, desired: DesiredHost) -> PartReport:
        """Fill firewalld's runtime configuration, where firewalld runs. An administrator may have done so by hand."""
        report = self._firewalld.sync(
            lambda: firewalld.desired(
                overlays=overlays(self._context.config, desired.lease.subnets, self._context.here),
                listens=self._context.backend.listens,
                peers=self._data_path.served_from,
                trusted=self._context.settings.trusted_networks,
            )
        )
        return PartReport(outside_problems=(report.problem,) if report.problem else ())

    def close(self) -> None:
        """Let go of firewalld's bus; its runtime configuration stays."""
        self._firewalld.close()

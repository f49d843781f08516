"""The part of the host that keeps this network's note for the host's other networks, and finds conflicts with them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from overlayd.errors import OverlaydError
from overlayd.host import other_networks
from overlayd.host.parts import DesiredHost, HostContext, PartReport
from overlayd.leases.lease import Lease


class NetworkNote:
    """Keeps the note up to date, and compares it with the notes of other networks."""

    name: ClassVar[str] = "other networks"

    def __init__(self, context: HostContext) -> None:
        """Changes nothing yet."""
        self._context = context

    def write(self, lease: Lease) -> other_networks.HostNetwork:
        """Note what this network takes on this host. Raises OverlaydError."""
        own = replace(
            other_networks.of_settings(self._context.settings),
            networks=self._context.config.networks,
            subnets=tuple(lease.subnets),
            listens=self._context.backend.listens,
        )
        other_networks.note(own)
        return own

    def sync(self, desired: DesiredHost) -> PartReport:
        """Write the note anew, and report what two networks of this host cannot share."""
        try:
            own = self.write(desired.lease)
        except OverlaydError as error:
            return PartReport(problems=(error.message,))
        return PartReport(problems=tuple(other_networks.conflicts(own, other_networks.others())))

    def close(self) -> None:
        """The note stays, as the data path does; `overlayd cleanup` removes it."""

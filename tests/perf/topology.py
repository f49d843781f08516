"""What the bench measures in: two hosts on an underlay, with containers on bridges. One class for each kind of host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from overlayd.errors import CommandFailed
from tests.perf.place import Pair, Place


class Topology(Protocol):
    """Two hosts. Peers' containers are on a plain bridge of the host's, with addresses that overlayd knows nothing of.

    What `peer_container` made goes with the hosts.
    """

    @property
    def underlay(self) -> Pair:
        """The hosts themselves."""
        ...

    def containers(self) -> Pair:
        """A container on each host, on our overlay as it is now."""
        ...

    def peer_container(self, host: int, name: str, mtu_bytes: int) -> Place:
        """Make a container for a peer's traffic on host 0 or 1; packets from and to it are forwarded. Raises."""
        ...


@dataclass(frozen=True, kw_only=True)
class End:
    """One host's end of a tunnel between two containers: the container's address goes to the other end by `device`."""

    host: Place
    container: Place
    device: str
    folder: Path

    def has_device(self) -> bool:
        """Whether the tunnel's device is there."""
        try:
            self.host.run("ip", "link", "show", self.device)
        except CommandFailed:
            return False
        return True

    def bring_up(self, mtu_bytes: int, other: End) -> None:
        """Bring the device up, and route the other end's container to it. Raises CommandFailed."""
        self.host.run("ip", "link", "set", self.device, "mtu", str(mtu_bytes), "up")
        self.host.run("ip", "route", "replace", f"{other.container.address}/32", "dev", self.device)

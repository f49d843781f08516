"""A lease and nothing else: something outside overlayd carries the packets, a router or a cloud's own routes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from overlayd.backends.listening import Listening
from overlayd.backends.options import Options
from overlayd.backends.surroundings import Surroundings
from overlayd.kernel.converge import Plan, Report, converge
from overlayd.lease import Lease


@dataclass(frozen=True, kw_only=True)
class Alloc:
    """The alloc backend on one host."""

    type: ClassVar[str] = "alloc"
    around: Surroundings

    @classmethod
    def from_config(cls, config: Mapping[str, Any], around: Surroundings) -> Self:
        """See Backend. No keys."""
        Options(cls.type, config, ())
        return cls(around=around)

    @property
    def mtu_bytes(self) -> int:
        """The underlay's own."""
        return self.around.underlay.mtu_bytes

    @property
    def devices(self) -> tuple[str, ...]:
        """Packets from peers come by the underlay's interface, if they come."""
        return (self.around.underlay.ifname,)

    @property
    def listens(self) -> tuple[Listening, ...]:
        """Nothing: packets come as they are."""
        return ()

    def lease_data(self, version: int) -> None:
        """Nothing."""

    def open(self, own: Lease) -> None:
        """Nothing to make."""

    def apply(self, own: Lease, peers: Collection[Lease]) -> Report:
        """Remove what another backend left; nothing is programmed for anybody."""
        paths = {peer.key_name: "left to others" for peer in peers}
        return converge(Plan(base=self.around.base(own), paths=paths))

    def run(self, stop: threading.Event) -> None:
        """Nothing is carried here."""

    def close(self) -> None:
        """Nothing is held here."""


BACKEND = Alloc

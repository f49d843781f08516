"""A lease and nothing else: something outside overlayd carries the packets, a router or a cloud's own routes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any, ClassVar, Self

from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts
from overlayd.backends.listening import Listening
from overlayd.backends.peers import PEERS_AT_MOST
from overlayd.backends.planned import Planned
from overlayd.kernel.converge import Plan
from overlayd.leases.lease import Lease


@dataclass(frozen=True, kw_only=True)
class Alloc(Planned):
    """The alloc backend on one host."""

    facts: ClassVar[BackendFacts] = BackendFacts(
        name="alloc",
        published_as="alloc",
        summary="A lease, and no data path: something else carries the packets.",
        keys=(),
        ipv6=True,
        overhead_bytes=None,
        carrier=None,
        device_kind=None,
        host_answers=False,
        one_route=False,
        runs_commands=False,
    )
    environment: Environment

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:  # noqa: ARG003 - it has no keys
        """See Backend."""
        return cls(environment=environment)

    @property
    def mtu_bytes(self) -> int:
        """The underlay's own."""
        return self.environment.underlay.mtu_bytes

    @property
    def devices(self) -> tuple[str, ...]:
        """Packets from peers come by the underlay's interface, if they come."""
        return (self.environment.underlay.ifname,)

    @property
    def listens(self) -> tuple[Listening, ...]:
        """Nothing: packets come as they are."""
        return ()

    def lease_data(self, version: int) -> None:
        """Nothing."""

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """What every host needs: with that, what another backend left goes. Nothing is programmed for anybody."""
        listed = nsmallest(PEERS_AT_MOST, peers, key=lambda peer: (peer.created, peer.key_name))
        return Plan(
            base=self.environment.base(own),
            paths={peer.key_name: "left to others" for peer in listed},
            unlisted=len(peers) - len(listed),
        )


BACKEND = Alloc

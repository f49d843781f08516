"""A lease and nothing else: something outside overlayd carries the packets, a router or a cloud's own routes."""

from __future__ import annotations

from collections.abc import Collection
from heapq import nsmallest
from typing import ClassVar

from overlayd.backends.facts import BackendFacts
from overlayd.backends.peers import PEERS_AT_MOST
from overlayd.backends.planned import PlainPackets
from overlayd.kernel.converge import Plan
from overlayd.leases.lease import Lease
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Alloc(PlainPackets):
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
        notified=True,
    )

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """What every host needs: with that, what another backend left goes. Nothing is programmed for anybody."""
        listed = nsmallest(PEERS_AT_MOST, peers, key=lambda peer: (peer.created, peer.key_name))
        return Plan(
            base=self.environment.base(own),
            paths={peer.key_name: "left to others" for peer in listed},
            unlisted=len(peers) - len(listed),
        )


BACKEND = Alloc

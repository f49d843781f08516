"""The best path to each peer: plain routes where the peer is on the underlay's own network, VXLAN elsewhere.

A host of an `auto` network publishes what a vxlan host does, and serves those: a network is moved from one to the other
without losing a packet. Each host decides for each peer; the two directions of a pair need not agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts
from overlayd.backends.options import Options
from overlayd.backends.vxlan import FACTS, Vxlan


class Auto(Vxlan):
    """The auto backend on one host."""

    facts: ClassVar[BackendFacts] = replace(
        FACTS,
        name="auto",
        summary="Plain routes to peers that the underlay reaches without a router, VXLAN to the others. Hosts of a "
        "vxlan network and of an auto network serve each other.",
        keys=tuple(key for key in FACTS.keys if key.name != "DirectRouting"),
    )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Keys: vxlan's but DirectRouting, which is always on where a peer can route to this host."""
        options = Options(cls.facts, config)
        own = all(endpoint.public_ip == endpoint.address for endpoint in environment.underlay.endpoints)
        return cls._made(options, environment, direct=own)


BACKEND = Auto

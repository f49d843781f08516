"""Firewall rules that accept the overlay's packets, keep their source addresses, and drop those of strangers.

`desired` gives the rules that a host needs, `Firewall.sync` writes them where they differ, `cleanup` removes all.
"""

from overlayd.firewall.apply import Firewall, FirewallReport, cleanup
from overlayd.firewall.rules import (
    NOTHING,
    DesiredRules,
    OtherNetwork,
    Overlay,
    desired,
    docker_closes_forwarding,
    docker_options_needed,
    docker_uses_nftables,
)
from overlayd.firewall.strangers import left_open

__all__ = [
    "NOTHING",
    "DesiredRules",
    "Firewall",
    "FirewallReport",
    "OtherNetwork",
    "Overlay",
    "cleanup",
    "desired",
    "docker_closes_forwarding",
    "docker_options_needed",
    "docker_uses_nftables",
    "left_open",
]

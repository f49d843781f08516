"""Firewall rules that let the overlay's packets pass, with their source addresses kept.

`desired` says what there should be, `Firewall.sync` makes it so, and `cleanup` takes all of it away.
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

"""Firewall rules that let the overlay's packets pass, with their source addresses kept.

`desired` says what there should be, `sync` makes it so, and `cleanup` takes all of it away.
"""

from overlayd.firewall.iptables import cleanup, sync
from overlayd.firewall.rules import Ruleset, desired

__all__ = ["Ruleset", "cleanup", "desired", "sync"]

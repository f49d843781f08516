"""The part of firewalld's runtime configuration that accepts the overlay's packets.

An accept in another table does not override firewalld's drops, so firewalld itself has to accept these packets.
`desired` gives the configuration, `Firewalld.sync` writes it, `cleanup` removes it.
"""

from overlayd.firewalld.desired import Runtime, desired
from overlayd.firewalld.keep import Firewalld, FirewalldReport, cleanup

__all__ = ["Firewalld", "FirewalldReport", "Runtime", "cleanup", "desired"]

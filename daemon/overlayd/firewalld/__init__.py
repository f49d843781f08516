"""firewalld's runtime configuration, as far as the overlay's packets need it to pass.

Its verdicts cannot be overridden from another table: it has to be told. `desired` says what, `Firewalld.sync` tells it,
`cleanup` takes it back.
"""

from overlayd.firewalld.desired import Runtime, desired
from overlayd.firewalld.keep import Firewalld, FirewalldReport, cleanup

__all__ = ["Firewalld", "FirewalldReport", "Runtime", "cleanup", "desired"]

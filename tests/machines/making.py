"""What the fixture `machines` gives to a test that makes a cluster of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.site import ClusterSite


class MakesMachines(Protocol):
    """Makes a cluster of machines for the length of a `with` block."""

    def __call__(self, cluster: Cluster, *, suite: str = "") -> AbstractContextManager[ClusterSite]:
        """The cluster. `suite`: of Debian, whose additions (additions.py) the machines' disk has."""

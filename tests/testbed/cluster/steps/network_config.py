"""Step: the network config. etcd's own client writes it, because no host is there yet that could."""

from __future__ import annotations

from tests.testbed.cluster.site import ClusterSite


def make(site: ClusterSite) -> None:
    """Put the network config into etcd; the description has checked it."""
    site.write_network_config(site.cluster.network_config)

"""The steps that make a cluster, in their order: a module each, whose `make` takes the site and adds to it."""

from __future__ import annotations

from collections.abc import Callable

from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.steps import etcd, hosts, leases, network_config, networks, probe_image, probes

STEPS: tuple[tuple[str, Callable[[ClusterSite], None]], ...] = (
    ("network", networks.make),
    ("etcd", etcd.make),
    ("network config", network_config.make),
    ("hosts", hosts.make),
    ("leases and docker", leases.make),
    ("probe image", probe_image.make),
    ("probe containers", probes.make),
)

"""Step: the underlay, a Docker network of its own."""

from __future__ import annotations

from docker.errors import APIError
from docker.types import IPAMConfig, IPAMPool

from overlayd.errors import OverlaydError
from tests.testbed.cluster import underlay
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.site import ClusterSite


def make(site: ClusterSite) -> None:
    """Make the bridge that etcd and the hosts have fixed addresses on."""
    cluster = site.cluster
    underlay.require_free(cluster)
    ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=str(cluster.underlay), gateway=str(cluster.underlay[1]))])
    try:
        client().networks.create(
            cluster.docker_network, driver="bridge", ipam=ipam, labels=cluster.labels("underlay"), check_duplicate=True
        )
    except APIError as error:
        # Another program may have taken the subnet since it was checked.
        underlay.require_free(cluster)
        raise OverlaydError(
            f"Docker network {cluster.docker_network} on {cluster.underlay}: {error.explanation}",
            hint=underlay.suggestion(cluster, underlay.holders(cluster)),
        ) from error

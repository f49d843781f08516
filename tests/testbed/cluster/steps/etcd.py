"""Step: etcd, which asks for a login from its first second, as README.md has it set up."""

from __future__ import annotations

from overlayd.errors import CommandFailed, OverlaydError
from tests.testbed.cluster import plan
from tests.testbed.cluster.docker_engine import PlannedContainer, client
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.polling import eventually

_ANSWERS_S = 20.0
_SET_UP_S = 120


def make(site: ClusterSite) -> None:
    """Start etcd and wait until it answers."""
    if not site.cluster.open_etcd:
        _set_up(site)
    planned = plan.etcd(site.cluster, site.image("etcd"))
    site.etcd = container = PlannedContainer(planned).start().get_wrapped_container()

    def answers() -> bool:
        try:
            site.etcdctl("endpoint", "health")
        except CommandFailed:
            container.reload()
            if container.status == "exited":
                log_end = container.logs(tail=5).decode(errors="replace").strip()
                raise OverlaydError(f"{container.name} ended: {log_end}") from None
            return False
        return True

    eventually(f"etcd at {site.cluster.etcd_endpoint} answers", answers, timeout_s=_ANSWERS_S)


def _set_up(site: ClusterSite) -> None:
    """Make certificates, users and their rights, before etcd starts. What it prints has no secret in it."""
    planned = plan.setup(site.cluster, site.image("etcd"))
    for volume in planned.volumes:
        client().volumes.create(volume, labels=planned.labels)
    container = PlannedContainer(planned).start().get_wrapped_container()
    status = container.wait(timeout=_SET_UP_S)["StatusCode"]
    log_end = container.logs(tail=10).decode(errors="replace").strip()
    container.remove(v=True)
    if status:
        raise OverlaydError(f"{container.name} ended with status {status}: {log_end}")

"""Step: etcd."""

from __future__ import annotations

from overlayd.errors import CommandFailed, OverlaydError
from tests.cluster import plan
from tests.cluster.docker_engine import PlannedContainer
from tests.cluster.site import Site
from tests.polling import eventually

_ANSWERS_S = 20.0


def make(site: Site) -> None:
    """Start etcd and wait until it answers."""
    planned = plan.etcd(site.cluster, site.image("etcd"))
    site.etcd = container = PlannedContainer(planned).start().get_wrapped_container()

    def answers() -> bool:
        try:
            site.etcdctl("endpoint", "health")
        except CommandFailed:
            container.reload()
            if container.status == "exited":
                said = container.logs(tail=5).decode(errors="replace").strip()
                raise OverlaydError(f"{container.name} ended: {said}") from None
            return False
        return True

    eventually(f"etcd at {site.cluster.etcd_endpoint} answers", answers, timeout_s=_ANSWERS_S)

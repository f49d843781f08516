"""Step: the hosts, all in parallel."""

from __future__ import annotations

from functools import cache

from docker.errors import APIError

from tests.testbed.cluster import bootable, cgroups, plan
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.docker_engine import PlannedContainer, client
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.steps import virtual_hosts


def make(site: ClusterSite) -> None:
    """Make and start every host of the description."""
    if site.cluster.machines:
        virtual_hosts.make(site)
        return
    privileged = privileged_works(site)
    how = "with --privileged" if privileged else "with single capabilities: --privileged does not work on this machine"
    site.notes["hosts"] = how

    def start(name: str) -> Machine:
        return start_one(site, name, privileged=privileged)

    for machine in each(start, site.cluster.host_names):
        site.machines[machine.name] = machine


def start_one(
    site: ClusterSite, name: str, *, privileged: bool | None = None, settings: dict[str, str] | None = None
) -> Machine:
    """Make and start one host; `settings` are more OVERLAYD_ variables for its daemon."""
    if privileged is None:
        privileged = privileged_works(site)
    planned = plan.host(
        site.cluster,
        name,
        site.image("host"),
        privileged=privileged,
        settings=settings,
        cgroups=bootable.cgroup_folder(site.cluster.base),
    )
    for volume in planned.volumes:
        client().volumes.create(volume, labels=planned.labels)
    container = PlannedContainer(planned).start().get_wrapped_container()
    return Machine(name, site.cluster.address(name), container)


def remove_one(machine: Machine) -> None:
    """Remove one host and its own volumes."""
    machine.container.reload()
    mounted = [str(mount["Name"]) for mount in machine.container.attrs["Mounts"] if mount["Type"] == "volume"]
    volumes = [name for name in mounted if name.startswith(f"{machine.container.name}-")]
    machine.container.remove(force=True, v=True)
    cgroups.sweep([str(machine.container.id)])
    for volume in volumes:
        client().volumes.get(volume).remove()


def privileged_works(site: ClusterSite) -> bool:
    """Whether this machine can start a container with `--privileged`; tried once, with the smallest image there is.

    Where the machine lacks a capability (CAP_SYS_RESOURCE on some virtual machines) the start itself fails.
    """
    return _privileged_works(site.cluster, site.image("probe"))


@cache
def _privileged_works(cluster: Cluster, image: str) -> bool:
    container = client().containers.create(
        image, ["true"], privileged=True, network_mode="none", labels=cluster.labels("trial")
    )
    try:
        container.start()
    except APIError:
        return False
    finally:
        container.remove(force=True, v=True)
        cgroups.sweep([str(container.id)])
    return True

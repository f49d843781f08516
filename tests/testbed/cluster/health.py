"""Whether a running cluster is the one that is asked for, and healthy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from overlayd.errors import CommandFailed, OverlaydError
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.images import image_of
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.transport import DockerExec


def difference(site: ClusterSite, wanted: Cluster) -> str | None:
    """Why a running cluster has to be made anew to be `wanted`; None if it need not."""
    if site.cluster != wanted:
        was = [
            f"{name} was {getattr(site.cluster, name)}"
            for name in (field.name for field in dataclasses.fields(wanted))
            if getattr(site.cluster, name) != getattr(wanted, name)
        ]
        return f"it was made from another description: {', '.join(was)}"
    if site.etcd is None or tuple(sorted(site.machines)) != tuple(sorted(wanted.host_names)):
        return "some of its containers are gone"
    parts = [("etcd", DockerExec(site.etcd), "etcd"), *((one.name, one.transport, "host") for one in site.hosts)]
    for name, part, what in parts:
        if (state := part.state()) != "running":
            return f"{name} is {state}"
        if part.image() != image_of(what, wanted.base):
            return f"image {wanted.image(what)} was built anew since"
    found = [problem for problem in each(_problem, site.hosts) if problem]
    return found[0] if found else None


def _problem(machine: Machine) -> str | None:
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("docker is not active", lambda: machine.succeeds("systemctl", "is-active", "--quiet", "docker")),
        ("overlayd is not ready", lambda: machine.status()["state"] == "ready"),
        ("its probe containers do not run", machine.probes_run),
    )
    for problem, holds in checks:
        try:
            if not holds():
                return f"{machine.name}: {problem}"
        except (CommandFailed, OverlaydError) as error:
            return f"{machine.name}: {problem}: {error}"
    return None

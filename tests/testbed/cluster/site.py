"""A cluster as it runs: its description, and handles on etcd and the hosts."""

from __future__ import annotations

from dataclasses import dataclass, field

from docker.models.containers import Container

from overlayd.errors import OverlaydError
from tests.testbed.cluster import docker_engine, plan, virtual_machine
from tests.testbed.cluster.description import DESCRIPTION_LABEL, ROLE_LABEL, Cluster, backend_json, from_label
from tests.testbed.cluster.docker_engine import run_in
from tests.testbed.cluster.images import image_of
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.etcd import PATIENCE
from tests.testbed.polling import eventually


@dataclass
class ClusterSite:
    """A cluster that is being made, or that runs: the steps fill it in, one after another.

    `took_s` are the steps' durations, in their order; `notes` what a step decided, as `create` prints it; `images` the
    IDs of images by role; `probe_image` the name that the probe image has on the hosts.
    """

    cluster: Cluster
    etcd: Container | None = None
    machines: dict[str, Machine] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    probe_image: str = ""

    def image(self, role: str) -> str:
        """The ID of the image that containers of a role are started from: the same for all of them.

        Raises OverlaydError where it has not been built.
        """
        if role not in self.images:
            self.images[role] = image_of(role, self.cluster.base)
        return self.images[role]

    @property
    def hosts(self) -> list[Machine]:
        """The hosts in the order of their names."""
        return [self.machines[name] for name in sorted(self.machines)]

    @property
    def pairs(self) -> list[tuple[Machine, Machine]]:
        """Every ordered pair of two hosts."""
        return [(source, target) for source in self.hosts for target in self.hosts if source is not target]

    def etcdctl(self, *words: str) -> str:
        """Run etcdctl in etcd's container, by etcd's root; what it printed."""
        if self.etcd is None:
            raise OverlaydError(f"cluster {self.cluster.name} has no etcd")
        argv = [*plan.etcdctl(self.cluster), *PATIENCE, *words]
        return run_in(self.etcd, argv, {"ETCDCTL_API": "3"}, user="root")

    def write_network_config(self, text: str) -> None:
        """Put the network config into etcd, where every daemon sees it at once."""
        self.etcdctl("put", f"{self.cluster.prefix}/config", text)

    def use(self, backend: str) -> None:
        """Switch to the backend of that type, with its defaults, unless the cluster is on one of that type."""
        if self.cluster.backend_type != backend:
            self.reconfigure(backend_json(backend))

    def reconfigure(self, backend: str) -> None:
        """Change the network's backend, and restart docker on every host once its daemon has followed.

        Docker takes its MTU at start only. Containers come back with it: they are started with a restart policy.
        """
        self.cluster = Cluster(**{**vars(self.cluster), "backend": backend})
        self.write_network_config(self.cluster.network_config)
        wanted = self.cluster.backend_type

        def follow(machine: Machine) -> None:
            def followed() -> bool:
                status = machine.status()
                return bool(status["state"] == "ready" and status["backend"] == wanted)

            eventually(f"{machine.name} on {wanted}", followed, timeout_s=machine.patience_s)
            machine.run("systemctl", "restart", "docker")
            wait_for_probes(machine)

        each(follow, self.hosts)


def wait_for_probes(machine: Machine) -> None:
    """Wait until both probe containers on a host run commands. Raises OverlaydError with what docker says of them."""
    try:
        eventually(f"the containers on {machine.name} run", machine.probes_run, timeout_s=machine.patience_s)
    except OverlaydError as error:
        told = machine.shell(
            "docker ps --all --quiet | xargs docker inspect --format '{{.Name}}: {{json .State}}' 2>&1 || true; "
            "systemctl is-active docker overlayd; journalctl --unit docker --lines 40 --no-pager --output cat || true"
        )
        raise OverlaydError(f"{error}\n{told}") from error


def find(name: str) -> ClusterSite | None:
    """The running cluster of that name, as its labels describe it; None where there is none. Raises OverlaydError."""
    found = docker_engine.containers(name)
    if not found:
        return None
    site = ClusterSite(cluster=from_label(found[0].labels[DESCRIPTION_LABEL]))
    for container in found:
        role = container.labels.get(ROLE_LABEL, "")
        if role == "etcd":
            site.etcd = container
        elif role.startswith("host"):
            site.machines[role] = Machine(role, site.cluster.address(role), container)
    if site.cluster.machines:
        site.machines |= virtual_machine.find(site.cluster)
    return site

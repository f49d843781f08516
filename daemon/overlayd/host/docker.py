"""The part of the host that watches docker: the options that it needs, its problems, and its start and restart."""

from __future__ import annotations

from typing import ClassVar

from overlayd.docker import options as docker_options
from overlayd.docker.watch import DockerWatch
from overlayd.host.parts import DesiredHost, HostContext, PartReport
from overlayd.leases.subnets import Subnets


class DockerPart:
    """Watches docker. It is started and restarted by `settle`, after the files that it starts from are written."""

    name: ClassVar[str] = "docker"

    def __init__(self, context: HostContext) -> None:
        """Changes nothing yet."""
        self._context = context
        self._watch = DockerWatch(
            restart=context.settings.docker_restart,
            lasting_s=context.settings.resync_s,
            firewalled=context.settings.firewall != "none",
            masquerade=context.settings.ip_masq,
            network=context.config.network(4),
            config=context.dockerd_config,
            addresses_of=lambda name: context.watch.interfaces().addresses_of(name),
        )

    def sync(self, desired: DesiredHost) -> PartReport:
        """Find out what is wrong with docker. The status has a field for that, and this host stays complete."""
        self._watch.look(self._desired_options(desired.lease.subnets))
        return PartReport(warnings=self._watch.warnings, status={"docker_problems": self._watch.problems})

    def settle(self) -> None:
        """Start or restart docker where the settings allow it, else log what has to be done."""
        self._watch.settle()

    def close(self) -> None:
        """Docker goes on by itself."""

    def record(self, subnets: Subnets) -> str:
        """The text of docker.json, from which `overlayd docker prepare` makes docker.env anew."""
        return self._watch.record(self._desired_options(subnets))

    def env_file(self) -> str:
        """The text of docker.env: dockerd's flags as of the last sync."""
        return docker_options.env_file(self._watch.options)

    def _desired_options(self, subnets: Subnets) -> docker_options.DesiredDockerOptions:
        return docker_options.desired_options(
            subnets, self._context.backend.mtu_bytes, we_masquerade=self._context.settings.ip_masq
        )

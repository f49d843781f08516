"""The files that docker and others start from: subnet.env, and docker.json and docker.env."""

from __future__ import annotations

from typing import ClassVar

from overlayd.docker import etcd_in_docker
from overlayd.docker import options as docker_options
from overlayd.errors import OverlaydError
from overlayd.host.docker import DockerPart
from overlayd.host.parts import DesiredHost, HostContext, PartReport
from overlayd.leases.lease import Lease
from overlayd.lib.addresses import first_host
from overlayd.lib.files import KeptFile


class FilesPart:
    """Keeps the files as they should be, from `publish` on."""

    name: ClassVar[str] = "files"

    def __init__(self, context: HostContext, docker: DockerPart | None) -> None:
        """Changes nothing yet. Without `docker`, no file for docker is written."""
        self._context = context
        self._docker = docker
        self._published = False
        settings = context.settings
        self._subnet_file = KeptFile(settings.subnet_env)
        self._record = KeptFile(settings.run_dir / docker_options.RECORD)
        self._docker_env = KeptFile(settings.run_dir / docker_options.DOCKER_ENV)

    @property
    def published(self) -> bool:
        """Whether docker may start from the files."""
        return self._published

    def publish(self, lease: Lease) -> None:
        """Write the files for the first time: docker may start from them at once. Raises OverlaydError."""
        self._write(lease)
        self._published = True

    def sync(self, desired: DesiredHost) -> PartReport:
        """Write the files again where they are not as they should be; before `publish`, nothing."""
        if self._published:
            try:
                self._write(desired.lease)
            except OverlaydError as error:
                return PartReport(problems=(error.message,))
        return PartReport()

    def close(self) -> None:
        """The files stay."""

    def _write(self, lease: Lease) -> None:
        try:
            self._subnet_file.write(self._subnet_env(lease))
            if self._docker is not None:
                record = self._docker.record(lease.subnets)
                self._record.write(record)
                etcd_in_docker.remember(self._context.settings.state_dir, record)
                # Last: docker may start as soon as this is there.
                self._docker_env.write(self._docker.env_file())
        except OSError as error:
            raise OverlaydError(f"cannot write the files that docker starts from: {error}") from error

    def _subnet_env(self, lease: Lease) -> str:
        """subnet.env as flannel writes it."""
        lines: dict[str, object] = {}
        for family_lease in lease.family_leases:
            prefix = "FLANNEL" if family_lease.version == 4 else "FLANNEL_IPV6"
            lines |= {
                f"{prefix}_NETWORK": self._context.config.network(family_lease.version),
                f"{prefix}_SUBNET": first_host(family_lease.subnet),
            }
        lines |= {
            "FLANNEL_MTU": self._context.backend.mtu_bytes,
            "FLANNEL_IPMASQ": str(self._context.settings.ip_masq).lower(),
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

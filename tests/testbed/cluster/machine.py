"""One running host of a cluster, and the containers on it."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from docker.models.containers import Container

from overlayd.errors import CommandFailed, OverlaydError
from tests.testbed.cluster.transport import DockerExec, Transport

PROBE = "probe"
UNDERLAY_PROBE = "underlay-probe"


class Machine:
    """A host with systemd, overlayd and docker: a container, or a virtual machine (virtual_machine.VirtualMachine).

    On it run two containers of ours: `probe` on docker's own bridge, which is the overlay, and `underlay-probe` in the
    host's network namespace, which the overlay is compared with.
    """

    # How long what takes seconds may take: to lease a subnet and start docker, to follow another backend.
    patience_s = 60.0

    def __init__(self, name: str, address: IPv4Address, host: Container | Transport) -> None:
        """`address` is the host's on the underlay; `host` its container, or another way onto it."""
        self.name = name
        self.address = address
        self.transport: Transport = DockerExec(host) if isinstance(host, Container) else host

    @property
    def container(self) -> Container:
        """The container that is the host. Raises OverlaydError where it is a virtual machine."""
        if not isinstance(self.transport, DockerExec):
            raise OverlaydError(f"{self.name} is a virtual machine, and no container")
        return self.transport.container

    def run(self, *argv: str) -> str:
        """Run a command on the host; what it printed. Raises CommandFailed."""
        return self.transport.run(argv)

    def shell(self, script: str) -> str:
        """Run a shell script on the host; what it printed. Raises CommandFailed."""
        return self.run("sh", "-c", script)

    def succeeds(self, *argv: str) -> bool:
        """Whether a command on the host ends with status 0."""
        try:
            self.run(*argv)
        except CommandFailed:
            return False
        return True

    def in_probe(self, *argv: str) -> str:
        """Run a command in the host's container on the overlay."""
        return self.run("docker", "exec", PROBE, *argv)

    def in_underlay(self, *argv: str) -> str:
        """Run a command in the host's own network namespace, with the probe image's programs."""
        return self.run("docker", "exec", UNDERLAY_PROBE, *argv)

    def probes_run(self) -> bool:
        """Whether commands run in both containers of ours."""
        return self.succeeds("sh", "-c", f"docker exec {PROBE} sh -c : && docker exec {UNDERLAY_PROBE} sh -c :")

    def status(self) -> dict[str, Any]:
        """The document of `overlayd status --json`, ready or not. Raises CommandFailed where no daemon has run yet."""
        # The exit status is 1 while the host is not ready; the document says why.
        output = self.run("sh", "-c", "overlayd status --json 2>&1 || true")
        try:
            found: dict[str, Any] = json.loads(output)
        except ValueError:
            raise CommandFailed(f"overlayd status on {self.name}: {output.strip()}") from None
        return found

    def asks_from_probe(self) -> bool:
        """Whether the daemon measures whether peers are reached from the host's own container."""
        return bool(self.status()["probed_from"] == f"container {self.probe_address()}")

    def variables(self) -> dict[str, str]:
        """subnet.env as the daemon wrote it."""
        lines = self.run("cat", "/run/overlayd/subnet.env").splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def bip(self) -> IPv4Interface:
        """The address that the lease gives docker's bridge, with its length."""
        return IPv4Interface(self.variables()["FLANNEL_SUBNET"])

    def unit(self, name: str, *properties: str) -> dict[str, str]:
        """Properties of a systemd unit."""
        lines = self.run("systemctl", "show", name, f"--property={','.join(properties)}").splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def probe_address(self) -> IPv4Address:
        """The overlay address of the host's own container."""
        # Docker 29 tells it for each network only; this container is on one.
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return IPv4Address(self.run("docker", "inspect", f"--format={template}", PROBE).strip())

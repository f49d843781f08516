"""How commands get onto a host: what lies below `machine.Machine`, of one kind for each kind of host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from docker.models.containers import Container

from tests.testbed.cluster.docker_engine import run_in


class Transport(Protocol):
    """What a host that is a container and one that is a virtual machine have in common."""

    def run(self, argv: Sequence[str]) -> str:
        """Run a command on the host; what it printed. Raises CommandFailed with the end of its output."""
        ...

    def login(self) -> list[str]:
        """The command that opens a shell on the host in this terminal."""
        ...

    def typed(self, command: str) -> str:
        """The command line that a person types here to run a command on the host."""
        ...

    def state(self) -> str:
        """`running`, or what the host is instead, in a word."""
        ...

    def image(self) -> str | None:
        """The ID of the image that the host was made from; None where it is not known any more."""
        ...

    def console(self) -> str:
        """What the host wrote on its console."""
        ...


class DockerExec:
    """A host that is a container."""

    def __init__(self, container: Container) -> None:
        """The container, running or not."""
        self.container = container

    def run(self, argv: Sequence[str]) -> str:
        """See Transport."""
        return run_in(self.container, argv)

    def login(self) -> list[str]:
        """See Transport."""
        return ["docker", "exec", "--interactive", "--tty", str(self.container.name), "sh", "-l"]

    def typed(self, command: str) -> str:
        """See Transport."""
        return f"docker exec {self.container.name} {command}"

    def state(self) -> str:
        """See Transport; as Docker said when the container was last looked at."""
        return self.container.status

    def image(self) -> str | None:
        """See Transport."""
        return None if self.container.image is None else self.container.image.id

    def console(self) -> str:
        """See Transport."""
        return self.container.logs().decode(errors="replace")

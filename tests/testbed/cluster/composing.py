"""A cluster that Compose starts from a file of compose/, under a project name and on an underlay of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from docker.models.containers import Container

from overlayd.errors import CommandFailed
from tests.testbed.cluster import docker_engine
from tests.testbed.cluster.create import ROOT

_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class Composed:
    """`underlay` are the first three numbers of the hosts' subnet, as OVERLAYD_UNDERLAY has them."""

    file: str
    project: str
    underlay: str
    base: str

    def run(self, *words: str) -> None:
        """Run a command of Compose. Raises CommandFailed with its standard error."""
        command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        argv = [*command, "--file", str(ROOT / "compose" / self.file), "--project-name", self.project, *words]
        variables = {**os.environ, "OVERLAYD_BASE": self.base, "OVERLAYD_UNDERLAY": self.underlay}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=variables)
        if done.returncode != 0:
            raise CommandFailed(f"{' '.join(argv)}\n  ended with status {done.returncode}: {done.stderr}")

    def container(self, service: str) -> Container:
        """The one container of a service, running or not."""
        labels: list[str] = [self._label, f"com.docker.compose.service={service}"]
        (found,) = docker_engine.client().containers.list(all=True, filters={"label": labels})
        return found

    def remove(self) -> None:
        """Take all of it away, volumes included."""
        self.run("down", "--volumes", "--timeout", "1")
        assert not docker_engine.names(self._label)

    @property
    def _label(self) -> str:
        return f"com.docker.compose.project={self.project}"

"""One system container as a small machine: started by `docker run` with a user's options, reached by ssh."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlayd.errors import CommandFailed
from tests.testbed.cluster import cgroups
from tests.testbed.cluster.create import ROOT
from tests.testbed.polling import eventually

BOOT_S = 60.0
_TIMEOUT_S = 120
V2 = Path("/sys/fs/cgroup/cgroup.controllers")
# A hybrid machine has a version 2 hierarchy beside those of version 1.
UNIFIED = Path("/sys/fs/cgroup") if V2.exists() else Path("/sys/fs/cgroup/unified")
# What systemd needs of Docker, and nothing more: no capability beyond the default ones.
CGROUPS = ("--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw")
TMPFS = ("--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp:exec")


def command(*argv: str | Path, env: Mapping[str, str] | None = None, status: int | None = 0) -> str:
    """Run a command; its output, both kinds in one. Raises CommandFailed on another exit status (None: any)."""
    done = subprocess.run(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if status is not None and done.returncode != status:
        raise CommandFailed(f"{shlex.join(map(str, argv))}\n  ended with status {done.returncode}: {done.stdout}")
    return done.stdout


def docker(*words: str | Path, status: int | None = 0) -> str:
    """Run the docker command; its output."""
    return command("docker", *words, status=status).strip()


@dataclass(frozen=True)
class SshKeys:
    """A user's key pair and ssh configuration, in a folder of the test's own."""

    folder: Path

    @classmethod
    def made(cls, folder: Path, name: str = "id_ed25519") -> SshKeys:
        """A fresh pair in `folder`/.ssh."""
        (folder / ".ssh").mkdir(parents=True)
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", folder / ".ssh" / name)
        (folder / ".ssh/config").write_text(
            f"UserKnownHostsFile {folder}/.ssh/known_hosts\nStrictHostKeyChecking accept-new\nBatchMode yes\n"
            f"IdentityFile {folder}/.ssh/{name}\nIdentitiesOnly yes\nIdentityAgent none\nConnectTimeout 10\n"
            "LogLevel ERROR\n"
        )
        return cls(folder)

    @property
    def public(self) -> str:
        """The public key's line."""
        return (self.folder / ".ssh/id_ed25519.pub").read_text().strip()

    @property
    def config(self) -> Path:
        """For ssh -F."""
        return self.folder / ".ssh/config"


@dataclass(frozen=True)
class SystemContainer:
    """A running system container, by its name."""

    name: str

    def run(self, *argv: str, status: int | None = 0) -> str:
        """Run a command in it as root; its output."""
        return docker("exec", self.name, *argv, status=status)

    def shell(self, script: str, status: int | None = 0) -> str:
        """Run a shell script in it as root."""
        return self.run("sh", "-c", script, status=status)

    def state(self) -> str:
        """The state of its systemd: `running`, `degraded` and so on (systemctl(1), is-system-running)."""
        return self.run("systemctl", "is-system-running", status=None)

    def booted(self) -> SystemContainer:
        """Wait until it has booted, with failed units or without."""
        eventually(f"{self.name} is up: {self.logs}", lambda: self.state() in {"running", "degraded"}, timeout_s=BOOT_S)
        return self

    @property
    def logs(self) -> str:
        """What `docker logs` shows."""
        return docker("logs", self.name)

    def inspect(self, template: str) -> Any:
        """A part of `docker inspect`."""
        return json.loads(docker("inspect", "--format", f"{{{{json {template}}}}}", self.name))

    @property
    def address(self) -> str:
        """Its address on its one Docker network."""
        [network] = self.inspect(".NetworkSettings.Networks").values()
        return str(network["IPAddress"])

    def journal(self, *options: str) -> str:
        """The journal's messages, without time and host."""
        return self.run("journalctl", "--no-pager", "--output=cat", *options)

    def ssh(self, keys: SshKeys, user: str, *words: str, status: int | None = 0, **more: str) -> str:
        """Log in with ssh over the container's network and run a command; `more` are ssh's options."""
        options = [f"-o{name}={value}" for name, value in more.items()]
        return command("ssh", "-F", keys.config, *options, f"{user}@{self.address}", *words, status=status).strip()

    def stopped(self) -> tuple[float, int]:
        """Stop it with `docker stop`; the seconds that took, and its exit status."""
        begin = time.monotonic()
        docker("stop", self.name)
        return time.monotonic() - begin, int(self.inspect(".State.ExitCode"))


@contextmanager
def started(name: str, image: str, *options: str) -> Iterator[SystemContainer]:
    """A container of a system image, for the length of the block. Boot is not waited for."""
    docker("rm", "--force", "--volumes", name, status=None)
    docker("run", "--detach", f"--name={name}", f"--hostname={name}", *options, image)
    container_id = docker("inspect", "--format", "{{.Id}}", name)
    try:
        yield SystemContainer(name)
    finally:
        docker("rm", "--force", "--volumes", name)
        cgroups.sweep([container_id])


def code_blocks(page: Path, heading: str) -> list[str]:
    """The indented commands of one section of a page, in their order. A block ends at a line of text."""
    section = page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks: list[list[str]] = [[]]
    for line in section.splitlines():
        if line.startswith("    "):
            blocks[-1].append(line[4:])
        elif line and blocks[-1]:
            blocks.append([])
        elif blocks[-1]:
            blocks[-1].append("")
    return ["\n".join(block).strip() + "\n" for block in blocks if any(block)]


def unit_lines(unit: Path, key: str, variables: Mapping[str, str], instance: str) -> list[Sequence[str]]:
    """The command lines of a unit's `key`, as systemd starts them for an instance: %i and variables are replaced."""
    found: list[Sequence[str]] = []
    for value in re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE):
        words = shlex.split(value.replace("%i", instance).replace("%%", "%"))
        found.append([variables.get(word[1:], word) if word.startswith("$") else word for word in words])
    return found


README = ROOT / "images/README.md"
EXAMPLE = ROOT / "images/base/example"

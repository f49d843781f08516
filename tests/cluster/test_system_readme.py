"""The commands for system containers in images/README.md and images/base/example, run as a user runs them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.images import image_of
from tests.testbed.cluster.system_container import (
    EXAMPLE,
    README,
    SshKeys,
    SystemContainer,
    code_blocks,
    command,
    docker,
    unit_lines,
)
from tests.testbed.polling import eventually

# The page builds an image of its own; tests that build look at all names of images.
pytestmark = pytest.mark.lane("builds")
# A developer's machine may already have the page's web1, web2 and machines.
OURS = "overlayd-test-"
BLOCKS = code_blocks(README, "How to start a system container")
MACHINE = f"{OURS}machine"


class Shell:
    """The shell of a user with an ssh key, in an empty folder beside the checkout's images/."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self.keys = SshKeys.made(folder)
        self._base = base
        (folder / "images").symlink_to(ROOT / "images")
        # ssh takes the home from the account, not from $HOME.
        (folder / "bin").mkdir()
        (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {self.keys.config} "$@"\n')
        (folder / "bin/ssh").chmod(0o755)

    def run(self, block: str) -> str:
        script = re.sub(r"\b(web[12]|machines)\b", rf"{OURS}\1", block)
        script = script.replace("overlayd/base:debian12-rpm", image_of("base", self._base))
        # A build by Docker needs the image as a tag.
        script = script.replace("debian12-rpm", self._base)
        prelude = f"export HOME={self.folder} PATH={self.folder}/bin:$PATH; cd {self.folder}\n"
        return command("bash", "-euo", "pipefail", "-c", prelude + script)


@pytest.fixture
def shell(tmp_path: Path, base: str) -> Iterator[Shell]:
    _remove()
    try:
        yield Shell(tmp_path, base)
    finally:
        _remove()


def _remove() -> None:
    for name in ("web1", "web1-old", "web2"):
        docker("rm", "--force", "--volumes", f"{OURS}{name}", status=None)
    for what in ("home", "srv", "cron", "journal"):
        docker("volume", "rm", f"{OURS}web1-{what}", f"{OURS}web2-{what}", status=None)
    docker("network", "rm", f"{OURS}machines", status=None)
    docker("rmi", "--force", f"{OURS}machines/web", status=None)


def test_the_commands_of_the_page_work_in_their_order(shell: Shell) -> None:
    said: dict[str, str] = {}
    web1 = SystemContainer(f"{OURS}web1")
    identity = "cat /etc/machine-id /etc/ssh/ssh_host_*_key"
    before = ""
    for block in BLOCKS:
        if "rename" in block:
            before = web1.shell(identity)
            web1.shell("echo kept >/srv/kept; echo lost >/usr/kept")
        if "tar --create" in block:
            web1.shell("echo saved >/srv/saved")
        said[block] = shell.run(block)
        if "rename" in block:
            assert web1.shell(identity) == before
            assert web1.shell("test ! -e /usr/kept && cat /srv/kept") == "kept"

    [build] = [text for block, text in said.items() if "GREETING" in block]
    assert build.splitlines()[-1] == "hello"
    [first] = [text for block, text in said.items() if "run --detach" in block and "ConnectionAttempts" in block]
    assert first.splitlines()[-1] == "running"
    assert "srv/saved" in command("tar", "--list", "--file", shell.folder / f"{web1.name}.tar").splitlines()
    [looks] = [text for block, text in said.items() if "docker stats" in block]
    assert '"Status":' in looks
    assert f"{OURS}web1" in looks
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(["docker", "inspect", web1.name], check=True, capture_output=True)


def test_dnf_inside_has_the_repositories_that_the_page_says(base: str) -> None:
    said = docker(
        *("run", "--rm", "--network=none", "--entrypoint=dnf", image_of("base", base)), "repolist", "--all", status=None
    )
    assert "`debian12-rpm` has no repositories" in README.read_text()
    assert ("No repositories available" in said) == (base == "debian12-rpm"), said


def test_the_units_are_well_formed(tmp_path: Path) -> None:
    # systemd checks that the programs exist, and docker's unit, which may have another name on this machine.
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    ours = (ROOT / "images/base/files/usr/lib/systemd/system").glob("container-*")
    found = [EXAMPLE / "machine@.service", EXAMPLE / "web.service", *ours]
    assert len(found) == 5
    for unit in found:
        text = re.sub(r"/usr/(bin/docker|libexec/system-container/[a-z-]+)", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    for unit in found:
        assert command("systemd-analyze", "verify", "--man=no", tmp_path / unit.name) == ""


@pytest.fixture
def _no_machine() -> Iterator[None]:
    docker("rm", "--force", "--volumes", MACHINE, status=None)
    try:
        yield
    finally:
        docker("rm", "--force", "--volumes", MACHINE, status=None)


@pytest.mark.usefixtures("_no_machine")
def test_the_example_unit_tells_a_reboot_from_a_poweroff(base: str) -> None:
    variables = {"IMAGE": image_of("base", base), "OPTIONS": "--env TZ=Europe/Berlin"}
    unit = EXAMPLE / "machine@.service"
    [make] = unit_lines(unit, "ExecStartPre", variables, MACHINE)
    [start] = unit_lines(unit, "ExecStart", variables, MACHINE)
    [stop] = unit_lines(unit, "ExecStop", variables, MACHINE)
    [restarts] = re.findall(r"^RestartForceExitStatus=(\d+)$", unit.read_text(), re.MULTILINE)
    [succeeds] = re.findall(r"^SuccessExitStatus=(\d+)$", unit.read_text(), re.MULTILINE)
    machine = SystemContainer(MACHINE)

    def through(*ending: str) -> int:
        """The exit status of ExecStart when a running machine ends in this way."""
        command(*make, env=variables)
        with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            try:
                eventually("it runs", lambda: machine.inspect(".State.Running"))
                assert machine.booted().state() == "running"
                command(*ending, status=None)
                return running.wait(timeout=30)
            finally:
                running.kill()

    inside = ("docker", "exec", MACHINE, "systemctl")
    assert through(*inside, "reboot") == int(restarts)
    made = machine.inspect(".Id")
    assert through(*stop) == int(succeeds)
    assert through(*inside, "poweroff") == int(succeeds)
    # It was the same container all the time.
    assert machine.inspect(".Id") == made
    assert "TZ=Europe/Berlin" in json.dumps(machine.inspect(".Config.Env"))

"""docker has another address than the lease: what the setting docker-restart allows, and `overlayd docker settle`.

Shell scripts stand in for systemctl and docker: they record their arguments and change docker0 as dockerd does.
tests/cluster has the real ones.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.netns.lab import SWITCH_ADDRESS, Lab, laboratory
from tests.testbed.polling import eventually

SYSTEMCTL = """\
echo "$@" >>{calls}
case $1 in
show) printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\nJob=0\\n'
      echo DropInPaths={drop_ins}; echo InactiveEnterTimestampMonotonic=5 ;;
restart) {restart} ;;
esac
"""
# What dockerd does as it starts with the options of docker.env.
OBEY = """\
bip=$(sed -n 's/.*--bip=\\([0-9./]*\\).*/\\1/p' {docker_env})
ip address flush dev docker0; ip address add $bip dev docker0"""
WRONG = "172.17.0.1/16"
# A stand-in for an etcd on the host itself.
FORWARD = """
import asyncio

async def copy(source, target):
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()

async def serve(reader, writer):
    there, back = await asyncio.open_connection("{server}", 2379)
    await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", 2379) as server:
        await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with an etcd and no host yet."""
    with laboratory(tmp_path_factory.mktemp("settle"), {"Type": "host-gw"}) as lab:
        yield lab


class Docker:
    """The stand-ins on one host, whose docker0 has the leased address at first."""

    def __init__(
        self,
        lab: Lab,
        tmp_path: Path,
        setting: str,
        *,
        containers: str = "",
        obeys: bool = True,
        drop_ins: str = "/a/50-overlayd.conf\\ /b/zz-overlayd.conf",
    ) -> None:
        self.calls = tmp_path / "calls"
        self.calls.touch()
        self.host = lab.host("a", start=False, settings={"docker-restart": setting, "resync-s": 0.5})
        restart = OBEY.format(docker_env=self.host.run_dir / "docker.env") if obeys else "true"
        self.host.install("systemctl", SYSTEMCTL.format(calls=self.calls, restart=restart, drop_ins=drop_ins))
        self.host.install("docker", f"echo {containers}")
        self.host.start()
        self.host.start_container()

    def take_another_address(self) -> None:
        """Give docker0 the address that a restarted docker with live-restore and other options gives it."""
        self.host.run("ip", "address", "flush", "dev", "docker0")
        self.host.run("ip", "address", "add", WRONG, "dev", "docker0")

    @property
    def restarts(self) -> int:
        """How often docker was restarted."""
        return sum(line.startswith("restart ") for line in self.calls.read_text().splitlines())

    def on_the_lease(self) -> bool:
        """Whether docker0 has the leased address and the daemon knows it."""
        there = f"{self.host.subnet[1]}/" in self.host.run("ip", "-4", "address", "show", "dev", "docker0")
        return there and not self.host.status()["docker_problems"]

    def complained(self) -> bool:
        """Whether the daemon's problem names the command for a person."""
        return "overlayd docker settle" in self.host.log.read_text()


@pytest.mark.parametrize(
    ("setting", "containers"), [("idle", ""), ("always", "4c01db0b339c")], ids=["idle-and-idle", "always"]
)
def test_docker_is_restarted_where_the_setting_allows_it(
    lab: Lab, tmp_path: Path, setting: str, containers: str
) -> None:
    docker = Docker(lab, tmp_path, setting, containers=containers)
    try:
        assert docker.restarts == 0
        docker.take_another_address()
        eventually("docker is back on the lease", lambda: docker.restarts and docker.on_the_lease())
        assert docker.restarts == 1
        # If docker0 leaves the lease again, docker is restarted again.
        docker.take_another_address()
        eventually("and again", lambda: docker.restarts > 1 and docker.on_the_lease())
        assert docker.restarts == 2
    finally:
        lab.remove_host(docker.host)


@pytest.mark.parametrize(
    ("setting", "containers"), [("idle", "4c01db0b339c"), ("never", "")], ids=["idle-and-busy", "never"]
)
def test_docker_is_left_alone_and_restarted_on_request(lab: Lab, tmp_path: Path, setting: str, containers: str) -> None:
    docker = Docker(lab, tmp_path, setting, containers=containers)
    try:
        docker.take_another_address()
        eventually("the daemon says what to do", docker.complained)
        assert docker.restarts == 0
        eventually("the status has it", lambda: WRONG in str(docker.host.status()["docker_problems"]))
        assert WRONG in docker.host.call("status").stdout
        done = docker.host.call("docker", "settle")
        assert done.returncode == 0, done.stderr
        assert docker.restarts == 1
        eventually("the daemon sees it", docker.on_the_lease)
        again = docker.host.call("docker", "settle")
        assert (again.returncode, "nothing to do" in again.stdout, docker.restarts) == (0, True, 1)
    finally:
        lab.remove_host(docker.host)


def test_a_restart_that_does_not_help_is_not_tried_again(lab: Lab, tmp_path: Path) -> None:
    docker = Docker(lab, tmp_path, "always", containers="4c01db0b339c", obeys=False)
    try:
        docker.take_another_address()
        eventually("docker is restarted", lambda: docker.restarts)
        # A repaired rule shows that the daemon's loop ran once more.
        for _ in range(3):
            docker.host.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
            eventually("another look", lambda: "= 1" in docker.host.run("sysctl", "net.ipv4.ip_forward"))
        assert docker.restarts == 1
        assert not docker.on_the_lease()
        done = docker.host.call("docker", "settle")
        assert (done.returncode, "still docker0 has 172.17.0.1/16" in done.stderr) == (1, True), done.stderr
    finally:
        lab.remove_host(docker.host)


def test_a_docker_that_would_not_get_our_options_is_not_restarted(lab: Lab, tmp_path: Path) -> None:
    # As if the generator had failed, or overlayd.service were not enabled.
    docker = Docker(lab, tmp_path, "always", drop_ins="/a/50-overlayd.conf")
    try:
        eventually("it is said", lambda: "zz-overlayd.conf" in str(docker.host.status()["warnings"]))
        docker.take_another_address()
        eventually("the daemon says what to do", docker.complained)
        done = docker.host.call("docker", "settle")
        assert (done.returncode, docker.restarts) == (2, 0), done.stderr
        assert "systemctl enable overlayd && systemctl daemon-reload" in done.stderr
    finally:
        lab.remove_host(docker.host)


def test_without_a_daemon_there_is_nothing_to_settle(lab: Lab, tmp_path: Path) -> None:
    docker = Docker(lab, tmp_path, "always")
    try:
        docker.host.stop()
        docker.take_another_address()
        done = docker.host.call("docker", "settle")
        assert (done.returncode, "overlayd status" in done.stderr, docker.restarts) == (1, True, 0), done.stderr
    finally:
        lab.remove_host(docker.host)


def test_missing_masquerading_is_a_problem_and_its_remedy_mends(lab: Lab) -> None:
    host = lab.host("b", settings={"firewall": "none", "resync-s": 0.5})
    try:
        eventually(
            "it is said", lambda: "neither docker nor overlayd masquerades" in str(host.status()["docker_problems"])
        )
        shown, words = host.call("status"), "neither docker nor overlayd masquerades"
        assert (shown.returncode, words in shown.stdout) == (1, True)
        findings = json.loads(host.call("doctor", "--json", "--no-arp").stdout)["findings"]
        remedy = next(finding["remedy"] for finding in findings if finding["name"] == "masquerading")
        assert f"run: {remedy}" in str(host.status()["docker_problems"])
        host.run("sh", "-c", remedy)
        eventually("all is well", lambda: "masquerades" not in str(host.status()["docker_problems"]))
    finally:
        lab.remove_host(host)


@pytest.mark.slow
def test_after_a_reboot_docker_may_start_before_an_etcd_that_is_its_container(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("c")
    subnet, elsewhere = host.subnet, host.settings
    try:
        host.stop()
        shutil.rmtree(host.run_dir)
        # Nothing listens at etcd's address yet, since docker does not run.
        host.run("ip", "link", "set", "lo", "up")
        host.settings = {**elsewhere, "etcd-endpoints": "http://127.0.0.1:2379"}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ear:
            ear.bind(str(tmp_path / "notify"))
            host.launcher = ("env", f"NOTIFY_SOCKET={tmp_path / 'notify'}")
            host.start(ready=False)
            # Only now systemd would start docker.service, which is ordered after overlayd.
            eventually("systemd was told", lambda: b"READY=1" in _heard(ear), timeout_s=60)
            assert f"--bip={subnet[1]}/24" in (host.run_dir / "docker.env").read_text()
        status = host.call("status")
        assert (status.returncode, "docker may start" in status.stdout) == (1, True), status.stdout
        # docker starts the container with etcd.
        etcd = subprocess.Popen([*host.enter, sys.executable, "-c", FORWARD.format(server=SWITCH_ADDRESS)])
        try:
            eventually("it is ready", lambda: host.status().get("state") == "ready", timeout_s=30)
            assert host.subnet == subnet
        finally:
            etcd.terminate()
            etcd.wait()
    finally:
        lab.remove_host(host)


def _heard(ear: socket.socket) -> bytes:
    # The daemon would block if nobody read its notifications.
    try:
        return ear.recv(4096)
    except BlockingIOError:
        return b""

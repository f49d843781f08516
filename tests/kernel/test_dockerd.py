"""A real dockerd, in a network namespace of its own, accepts the options for a lease and follows them."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from overlayd.docker import options as docker_options
from overlayd.docker.dockerd_config import DockerdConfig
from overlayd.kernel import interfaces
from overlayd.leases.subnets import Subnets
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually

V4, V6 = IPv4Network("10.5.52.0/24"), IPv6Network("fd42:0:0:7::/64")


@contextmanager
def dockerd(namespace: str, folder: Path, flags: list[str]) -> Iterator[None]:
    """A dockerd that shares only cgroups with the machine, until the end of the block."""
    # `ip netns exec` would hide the cgroups that it needs.
    argv = ["nsenter", f"--net=/run/netns/{namespace}", "dockerd"]
    argv += [f"--data-root={folder / 'data'}", f"--exec-root={folder / 'exec'}", f"--pidfile={folder / 'pid'}"]
    argv += [f"--host=unix://{folder / 'socket'}", "--storage-driver=vfs", f"--config-file={folder / 'daemon.json'}"]
    (folder / "daemon.json").write_text("{}")
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([*argv, *flags], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        eventually("dockerd listens", lambda: process.poll() is not None or _says_it_is_up(log), timeout_s=30)
        assert process.poll() is None, log.read_text()[-2000:]
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _says_it_is_up(log: Path) -> bool:
    return "API listen on" in log.read_text()


@pytest.fixture
def namespace() -> Iterator[str]:
    name = namespaces.unique("dockerd")
    namespaces.make(name)
    try:
        yield name
    finally:
        namespaces.remove(name)


@pytest.mark.parametrize("subnets", [Subnets(v4=V4), Subnets(v4=V4, v6=V6)], ids=["ipv4", "dual-stack"])
def test_docker0_carries_the_lease(namespace: str, tmp_path: Path, subnets: Subnets) -> None:
    assert shutil.which("dockerd"), "no dockerd here: run `make system`"
    flags, problems = docker_options.choose_flags(
        docker_options.desired_options(subnets, 1430, we_masquerade=True), DockerdConfig()
    )
    assert not problems
    with dockerd(namespace, tmp_path, flags):
        found = inside(namespace, lambda: interfaces.interface_addresses(docker_options.BRIDGE))
        assert docker_options.bridge_problem(subnets, found) is None
        other = Subnets(v4=IPv4Network("10.5.53.0/24"))
        assert "not the leased 10.5.53.0/24" in str(docker_options.bridge_problem(other, found))
    # With other options it takes another address, as after a lost lease and a restart.
    flags, _ = docker_options.choose_flags(
        docker_options.desired_options(other, 1430, we_masquerade=True), DockerdConfig()
    )
    with dockerd(namespace, tmp_path, flags):
        found = inside(namespace, lambda: interfaces.interface_addresses(docker_options.BRIDGE))
        assert docker_options.bridge_problem(other, found) is None

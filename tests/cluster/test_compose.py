"""compose/compose.yaml, as a user would start it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from docker.models.containers import Container

from tests.cluster import docker_engine
from tests.cluster.create import ROOT
from tests.cluster.machine import Machine
from tests.cluster.measure import ping
from tests.cluster.parallel import each
from tests.cluster.steps import leases, probe_image, probes
from tests.polling import eventually

_PROJECT = "overlayd-test-compose"
_PROJECT_LABEL = f"com.docker.compose.project={_PROJECT}"
_UNDERLAY = "198.18.41"
_HOSTS = {"host1": 11, "host2": 12, "host3": 13}


def _command() -> list[str]:
    return ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


def _compose(base: str, *words: str) -> None:
    argv = [*_command(), "--file", str(ROOT / "compose" / "compose.yaml"), "--project-name", _PROJECT, *words]
    variables = {**os.environ, "OVERLAYD_BASE": base, "OVERLAYD_UNDERLAY": _UNDERLAY}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=variables)
    assert done.returncode == 0, done.stderr


def _container(service: str) -> Container:
    labels: list[str] = [_PROJECT_LABEL, f"com.docker.compose.service={service}"]
    (found,) = docker_engine.client().containers.list(filters={"label": labels})
    return found


@pytest.fixture
def composed(base: str) -> Iterator[dict[str, Machine]]:
    """The hosts that compose started."""
    try:
        _compose(base, "up", "--detach")
        yield {
            name: Machine(name, IPv4Address(f"{_UNDERLAY}.{number}"), _container(name))
            for name, number in _HOSTS.items()
        }
    finally:
        _compose(base, "down", "--volumes", "--timeout", "1")
        assert not docker_engine.names(_PROJECT_LABEL)


def test_compose_starts_hosts_whose_containers_reach_each_other(composed: dict[str, Machine]) -> None:
    each(leases.wait_for, composed.values())

    def start(machine: Machine) -> None:
        probes.start_one(machine, probe_image.load(machine))

    first, second = composed["host1"], composed["host2"]
    each(start, (first, second))
    addresses = {machine.name: machine.probe_address() for machine in (first, second)}
    eventually("host1 reaches host2", lambda: ping(first.in_probe, addresses["host2"], count=3).lost == 0, timeout_s=15)
    assert ping(second.in_probe, addresses["host1"], count=3).lost == 0

"""`docker stop` of a system container with Docker and containers inside stops all in order, within 5 s."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.cluster import cgroups
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.images import image_of
from tests.testbed.cluster.system_container import CGROUPS, TMPFS, SystemContainer, docker, started
from tests.testbed.polling import eventually

STOP_S = 5.0
# The options of images/README.md for a machine without CAP_SYS_RESOURCE; they work on other machines too.
OPTIONS = (
    *("--tty", "--network=none", *CGROUPS, *TMPFS, "--cap-add=ALL", "--cap-drop=SYS_RESOURCE"),
    *(
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--security-opt=systempaths=unconfined",
    ),
    *("--device-cgroup-rule=a *:* rwm", "--volume=/var/log/journal"),
    f"--volume={ROOT}/build/images/probe.tar:/probe.tar:ro",
)


@pytest.fixture(scope="module")
def host(base: str) -> Iterator[SystemContainer]:
    inside: list[str] = []
    with started("overlayd-test-shutdown", image_of("docker", base), *OPTIONS) as container:
        yield container.booted()
        inside = container.run("docker", "ps", "--all", "--quiet", "--no-trunc", status=None).split()
    # Their cgroups are beside that of the system container, and outlive it.
    cgroups.sweep(inside)


def test_stopping_dockerd_alone_leaves_containers_to_docker(host: SystemContainer) -> None:
    # It would kill this process if the whole container were stopping.
    program = "/usr/libexec/system-container/stop-docker"
    assert host.shell(f"CONTAINERS_STOP_S=0 MAINPID=$$ {program} && echo lives") == "lives"
    assert program in host.run("systemctl", "show", "--property=ExecStop", "docker")


def test_containers_that_ignore_the_signal_are_killed_and_all_else_stops_in_order(host: SystemContainer) -> None:
    assert host.state() == "running"
    image = host.run("docker", "load", "--input", "/probe.tar").rpartition("Loaded image: ")[2]
    # A process 1 without a handler ignores SIGTERM; docker-init passes it on to a process that ends by it.
    how = "docker run --detach --network=none --stop-signal=SIGTERM"
    deaf = host.shell(f"{how} --name=deaf --restart=always {image} sleep infinity").splitlines()[-1]
    host.shell(f"{how} --name=polite --restart=unless-stopped --init {image} sleep infinity")
    host.shell(f"{how} --name=stopped --restart=unless-stopped --init {image} sleep infinity && docker stop stopped")

    took_s, status = host.stopped()
    assert took_s < STOP_S
    assert status == 130
    docker("start", host.name)
    host.booted()
    words = host.journal().splitlines()
    words = words[words.index("Received SIGRTMIN+3.") : words.index("Journal stopped") + 1]
    assert not [line for line in words if "with signal SIGKILL" in line]
    assert f"container {deaf[:12]} did not stop within 2 s: killed" in words
    shutdown = [n for n, line in enumerate(words) if "Daemon shutdown complete" in line]
    assert shutdown
    assert shutdown[0] < next(n for n, line in enumerate(words) if line.startswith("Reached target shutdown"))

    # dockerd recorded how each container ended, so restart policies work.
    eventually("two are back", lambda: host.run("docker", "ps", "--format={{.Names}}").split() == ["polite", "deaf"])
    events = host.shell("docker inspect --format '{{.Name}} {{.State.Status}}' deaf polite stopped").splitlines()
    assert events == ["/deaf running", "/polite running", "/stopped exited"]

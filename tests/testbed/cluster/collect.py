"""Collects journals, routes, rules and etcd's content of a failed cluster."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from docker.errors import DockerException
from docker.models.containers import Container

from overlayd.errors import OverlaydError
from tests.testbed.cluster.site import ClusterSite

_HOST_COMMANDS = {
    "journal.txt": "journalctl --no-pager --output=short-monotonic",
    "units.txt": "systemctl --no-pager --full status overlayd docker; systemctl --no-pager list-units --failed",
    "status.json": "overlayd status --json",
    "network.txt": "ip -d link; ip address; ip route; ip rule; ip neigh; bridge fdb",
    "iptables.txt": "iptables-save",
    "docker.txt": "docker ps --all --no-trunc; docker network inspect bridge; cat /run/overlayd/*.env",
}


def collect(site: ClusterSite, folder: Path) -> Path:
    """Write journals, routes, rules and etcd's content of a cluster below `folder`/NAME, replacing an older one.

    Where something cannot be read, its file says so: never raises for a host that is too broken to answer.
    """
    target = folder / site.cluster.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "description.json").write_text(site.cluster.to_label() + "\n")
    if site.etcd is not None:
        _write(target / "etcd.txt", site.etcdctl, "get", "--prefix", site.cluster.prefix)
        _write(target / "etcd-log.txt", _console, site.etcd)
    for machine in site.hosts:
        for name, script in _HOST_COMMANDS.items():
            _write(target / machine.name / name, machine.shell, f"({script}) 2>&1 || true")
        _write(target / machine.name / "console.txt", machine.transport.console)
    return target


def _console(container: Container) -> str:
    return container.logs().decode(errors="replace")


def _write(path: Path, read: Callable[..., str], *arguments: object) -> None:
    path.parent.mkdir(exist_ok=True)
    try:
        path.write_text(read(*arguments))
    except (OverlaydError, DockerException) as error:
        path.write_text(f"could not be read: {error}\n")

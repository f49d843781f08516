"""Docker on this host, as far as files and systemd tell; dockerd itself is not asked."""

from __future__ import annotations

import shutil
from pathlib import Path

from overlayd import docker
from overlayd.doctor.facts import Docker, Network
from overlayd.doctor.gather.host import unit
from overlayd.lease import Subnets
from overlayd.settings import Settings


def read_docker(settings: Settings, network: Network | None) -> Docker:
    """What docker is configured to do."""
    given, problems = docker.read_daemon_json()
    conflicts: list[str] = []
    if network is not None and network.subnets:
        subnets = Subnets(v4=network.subnet, v6=network.subnet6)
        want = docker.wanted(subnets, network.mtu_bytes, we_masquerade=settings.ip_masq)
        _flags, conflicts = docker.flags(want, given)
    shown = unit(docker.UNIT, "LoadState", "ActiveState", "DropInPaths")
    known = shown is not None and shown["LoadState"] == "loaded"
    return Docker(
        installed=known or shutil.which("dockerd") is not None,
        conflicts=(*problems, *conflicts),
        settings=given,
        drop_ins=tuple(Path(path).name for path in shown["DropInPaths"].split()) if shown and known else None,
        active=shown["ActiveState"] == "active" if shown and known else None,
    )

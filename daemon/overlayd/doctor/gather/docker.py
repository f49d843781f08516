"""Docker on this host, as far as files, systemd and /proc tell; dockerd itself is not asked."""

from __future__ import annotations

import shutil

from overlayd.docker import etcd_in_docker
from overlayd.docker import options as docker_options
from overlayd.docker import service as docker_service
from overlayd.docker.dockerd_config import read_dockerd_config
from overlayd.doctor.facts import Docker, Network
from overlayd.errors import CommandFailed
from overlayd.leases.subnets import Subnets
from overlayd.settings import Settings


def read_docker(settings: Settings, network: Network | None) -> Docker:
    """What docker is config to do, and how it does."""
    config, left = read_dockerd_config(), settings.firewall == "none" and settings.ip_masq
    service = docker_service.read_service(config)
    argv = docker_service.dockerd_argv(service)
    conflicts, otherwise = list(config.problems), None
    if network is not None and network.subnets:
        subnets = Subnets(v4=network.subnet, v6=network.subnet6)
        desired = docker_options.desired_options(subnets, network.mtu_bytes, we_masquerade=settings.ip_masq)
        options, conflicts = docker_options.plan(desired, config, firewalled=settings.firewall != "none")
        otherwise = docker_service.restart_needed(docker_service.differences(argv, options, config), service)
    return Docker(
        installed=service is not None or shutil.which("dockerd") is not None,
        conflicts=tuple(conflicts),
        settings=config.settings,
        drop_ins=service.drop_ins if service else None,
        by_hand=service is not None and service.by_hand,
        active=service.state == "active" if service else None,
        on_its_way=service is not None and service.on_its_way,
        at_rest=service is not None and service.at_rest,
        down=docker_service.down(service),
        failed=service is not None and service.failed,
        compared=argv is not None and network is not None and bool(network.subnets),
        otherwise=otherwise,
        etcd_here=etcd_in_docker.etcd_is_here(settings.etcd_endpoints),
        remembered=etcd_in_docker.remembers(settings),
        left_to_others=left,
        masqueraded=_masqueraded(network) if left else None,
    )


def _masqueraded(network: Network | None) -> bool | None:
    if network is None or network.subnet is None:
        return None
    try:
        return docker_service.somebody_masquerades(network.subnet)
    except CommandFailed:
        return None

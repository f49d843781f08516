"""`overlayd docker settle`: bring docker0 onto the leased subnet now, by a restart of docker.

`overlayd docker prepare` writes docker's options before docker starts. docker.service runs it at each start, so it
imports little.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from overlayd.commands.command import Command, Verb, Verbs
from overlayd.commands.output import print_line
from overlayd.docker import options as docker_options
from overlayd.docker import remedies as docker_remedies
from overlayd.docker import service as docker_service
from overlayd.docker.dockerd_config import VARIABLE, DockerdConfig, read_dockerd_config
from overlayd.errors import ConfigError, OverlaydError
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPInterface
from overlayd.monitoring import status_file
from overlayd.settings import Settings

# By then dockerd has reported that it is up; its bridge follows at once.
BRIDGE_TIMEOUT_S = 5.0
POLL_S = 0.2
# docker.service waits for `prepare`, and its start may have no time limit.
PREPARE_TIMEOUT_S = 10


def _prepare(settings: Settings, _options: argparse.Namespace) -> int:
    """Write docker's options."""
    signal.alarm(PREPARE_TIMEOUT_S)
    docker_options.prepare(settings.run_dir, read_dockerd_config())
    return 0


def _settle(settings: Settings, _options: argparse.Namespace) -> int:
    """Restart docker if docker0 or dockerd's options are not the lease's, whatever runs in it; else do nothing."""
    if settings.network_number:
        raise ConfigError(
            f"docker's default bridge belongs to network 0, not to network {settings.network_number}",
            hint="containers of this one are on a bridge of its own: docker network create (README.md)",
        )
    found = status_file.read(settings.run_dir)
    if found.state != "ready" or not found.subnets or not found.mtu_bytes or not status_file.alive(found):
        raise OverlaydError("no overlayd runs here that holds a subnet for docker", hint="see: overlayd status")
    subnets = Subnets(
        v4=IPv4Network(found.subnet) if found.subnet else None,
        v6=IPv6Network(found.subnet6) if found.subnet6 else None,
    )
    desired = docker_options.desired_options(subnets, found.mtu_bytes, we_masquerade=settings.ip_masq)
    config = read_dockerd_config()
    flags, problems = docker_options.plan(desired, config, firewalled=settings.firewall != "none")
    if problems:
        # A restart would stop containers and change nothing.
        raise ConfigError("; ".join(problems), hint="mend that first, then again")
    service = docker_service.read_service(config)
    if service is not None and service.at_rest:
        print_line("nothing to do: docker does not run, and is not enabled; it comes onto the lease when it is started")
        return 0
    wrong = _wrong(subnets, flags, config)
    if wrong is None and service is not None and (down := docker_service.down(service)):
        raise OverlaydError(down, hint=docker_service.start_command(service))
    if wrong is None:
        print_line(
            f"nothing to do: {docker_options.BRIDGE} {'is not there' if _addresses() is None else f'has {subnets}'}"
        )
        return 0
    if service is not None and service.missing:
        raise ConfigError(
            f"{wrong}; and docker.service has no {', '.join(service.missing)}, so a restart would not help",
            hint=f"run: {docker_service.ENABLE}, then again; where that changes nothing: "
            "journalctl -b | grep overlayd-docker-generator",
        )
    print_line(wrong)
    if config.settings.get("live-restore") is True and docker_options.bridge_problem(subnets, _addresses()):
        _refuse_while_containers_run()
    print_line("restarting docker …")
    docker_service.restart_now()
    _await(subnets, flags, config)
    print_line(f"{docker_options.BRIDGE} carries {subnets}")
    return 0


def _addresses() -> tuple[IPInterface, ...] | None:
    # `prepare` needs no netlink, whose libraries would double the time of its start.
    from overlayd.kernel.interfaces import interface_addresses  # noqa: PLC0415

    return interface_addresses(docker_options.BRIDGE)


def _wrong(subnets: Subnets, flags: Sequence[str], config: DockerdConfig) -> str | None:
    """What a restart of docker would mend."""
    service = docker_service.read_service(config)
    different = docker_service.differences(docker_service.dockerd_argv(service), flags, config)
    return docker_options.bridge_problem(subnets, _addresses()) or docker_service.restart_needed(different, service)


def _refuse_while_containers_run() -> None:
    """With live-restore a dockerd that starts beside containers leaves its bridge as it is."""
    running = docker_service.containers()
    if running:
        raise OverlaydError(
            f"docker keeps {docker_options.BRIDGE}'s address while containers run, as live-restore is on; "
            f"{len(running)} are running",
            hint=f"run: {docker_remedies.onto_the_lease(live_restore=True)}",
        )


def _await(subnets: Subnets, flags: Sequence[str], config: DockerdConfig) -> None:
    deadline = time.monotonic() + BRIDGE_TIMEOUT_S
    while (problem := _wrong(subnets, flags, config)) is not None:
        if time.monotonic() > deadline:
            raise OverlaydError(
                f"docker was restarted, and still {problem}",
                hint=f"does it get its options? see: systemctl cat docker | grep {VARIABLE}; "
                "it does while overlayd.service is enabled, after systemctl daemon-reload",
            )
        time.sleep(POLL_S)


COMMAND = Command(
    place=110,
    does=Verbs(
        name="docker",
        help="bring a docker that runs onto the leased subnet",
        verbs=(
            Verb(
                name="settle",
                help="restart docker if docker0 or dockerd's options are not the lease's, also while containers run; "
                "else do nothing",
                manual="",
                needs_root="changes how docker runs",
                needs_etcd=False,
                run=_settle,
            ),
            Verb(
                name="prepare",
                help="write docker's options for the start that is about to come; docker.service runs this itself",
                manual="",
                needs_root="changes how docker runs",
                needs_etcd=False,
                run=_prepare,
            ),
        ),
    ),
)

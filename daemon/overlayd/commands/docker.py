"""`overlayd docker settle`: bring docker0 onto the leased subnet now, at the price of a restart of docker."""

from __future__ import annotations

import argparse
import os
import time
from ipaddress import IPv4Network, IPv6Network

from overlayd import docker
from overlayd import status as status_file
from overlayd.commands.output import print_line
from overlayd.errors import ConfigError, OverlaydError, PrivilegeError
from overlayd.kernel.interfaces import interface_addresses
from overlayd.lease import Subnets
from overlayd.settings import Settings

# dockerd has said that it is up by then; its bridge is a matter of moments.
BRIDGE_TIMEOUT_S = 5.0
POLL_S = 0.2


def main(settings: Settings, _options: argparse.Namespace) -> int:
    """Restart docker if docker0 does not carry the leased subnet, whatever runs in it; else do nothing."""
    if os.geteuid() != 0:
        raise PrivilegeError("overlayd docker settle may restart docker", hint="run it as root")
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
    want = docker.wanted(subnets, found.mtu_bytes, we_masquerade=settings.ip_masq)
    daemon_json, problems = docker.read_daemon_json()
    problems += docker.flags(want, daemon_json)[1]
    if problems:
        # Containers would stop for nothing.
        raise ConfigError("; ".join(problems), hint="mend that first, then again")
    addresses = interface_addresses(docker.BRIDGE)
    problem = docker.bridge_problem(subnets, addresses)
    if problem is None:
        print_line(f"nothing to do: {docker.BRIDGE} {'is not there' if addresses is None else f'has {subnets}'}")
        return 0
    print_line(problem)
    print_line("restarting docker …")
    docker.restart_now()
    _await_bridge(subnets)
    print_line(f"{docker.BRIDGE} carries {subnets}")
    return 0


def _await_bridge(subnets: Subnets) -> None:
    deadline = time.monotonic() + BRIDGE_TIMEOUT_S
    while (problem := docker.bridge_problem(subnets, interface_addresses(docker.BRIDGE))) is not None:
        if time.monotonic() > deadline:
            raise OverlaydError(
                f"docker was restarted, and still {problem}",
                hint=f"does it get its options? see: systemctl cat docker | grep {docker.VARIABLE}; "
                "it does while overlayd.service is enabled, after systemctl daemon-reload",
            )
        time.sleep(POLL_S)

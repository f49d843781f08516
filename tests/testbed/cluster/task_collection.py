"""The Invoke tasks `cluster.…`: start, show, measure and remove a cluster."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task
from rich.console import Console

from images.machine.kernels import SUITES
from overlayd import backends
from overlayd.errors import OverlaydError
from overlayd.leases.network_config import parse_network_config
from tests.testbed.cluster import bootable, docker_engine, health, measure, options, report
from tests.testbed.cluster.create import create, remove
from tests.testbed.cluster.description import UNDERLAY, Cluster, backend_json, checked_name
from tests.testbed.cluster.guard import guarded
from tests.testbed.cluster.name_lock import name_locked
from tests.testbed.cluster.site import ClusterSite, find
from tests.testbed.cluster.steps import virtual_hosts
from tests.testbed.cluster.underlay import require_free

UNDERLAY_HELP = "the hosts' subnet (default: the one the cluster has, else 198.18.0.0/24)"
_NAME = {"name": "the cluster's name"}
# In a log file or a pipe there is no terminal to be as wide as.
_console = Console(width=None if sys.stdout.isatty() else 130)


@task(
    help={
        "hosts": "how many",
        "backend": "vxlan, host-gw, udp, or the backend's object as JSON",
        "base": "base image of the images (default: that of the host image built last)",
        "underlay": UNDERLAY_HELP,
        "machines": "hosts are virtual machines (QEMU), not containers; builds their disk image if it is missing",
        "kernel": f"with --machines, the kernel that they boot: {', '.join(SUITES)} (default: the disk's own)",
        "retain": "leave a cluster that failed standing",
        **_NAME,
    }
)
def up(
    c: Context,
    *,
    hosts: str = "3",
    backend: str = "vxlan",
    base: str | None = None,
    underlay: str | None = None,
    machines: bool = False,
    kernel: str = "",
    retain: bool = False,
    name: str = "default",
) -> None:
    """Start one etcd and some hosts as containers or machines; a cluster that is already so is left as it is."""
    wanted = requested_cluster(
        hosts=hosts, backend=backend, underlay=underlay, name=name, machines=machines, kernel=kernel
    )
    wanted = replace(wanted, base=base or docker_engine.newest_base())
    if machines:
        virtual_hosts.build(wanted)
    else:
        bootable.require(wanted.base)
    with name_locked(name) as lock:
        site = find(name)
        if site is not None:
            if underlay is None:
                wanted = replace(wanted, underlay=site.cluster.underlay)
            reason = health.difference(site, wanted)
            if reason is None:
                _say(f"cluster {name} is up and well")
                return
        # Before the running cluster is removed.
        require_free(wanted)
        if site is not None:
            _say(f"cluster {name} is made anew: {reason}")
        # Also what a run that was killed may have left without a container.
        remove(name)
        with guarded(name, lock):
            site = create(wanted, _say, retain=retain)
        report.show_hosts(_console, site)


@task(help=_NAME)
def down(c: Context, name: str = "default") -> None:
    """Remove the cluster: containers, volumes, network."""
    with name_locked(checked_name(name)):
        removed = remove(name)
    if any(removed.values()):
        _say(f"cluster {name} removed: " + ", ".join(f"{count} {what}" for what, count in removed.items()))
    else:
        _say(f"there is no cluster {name}")


@task(help=_NAME)
def status(c: Context, name: str = "default") -> None:
    """Show hosts, subnets, docker, and what each daemon says of itself."""
    report.show_hosts(_console, _site(name))


@task(help={"seconds": "length of each TCP flow", **_NAME})
def show(c: Context, seconds: str = "1", name: str = "default") -> None:
    """Ping and send TCP from a container on each host to one on every other; a table beside the underlay's figures."""
    duration_s = options.whole_number("seconds", seconds)
    site = _site(name)
    with _console.status("measuring"):
        pairs = measure.matrix(site, duration_s=duration_s)
    report.show_pairs(_console, site, pairs)
    lost = [f"{pair.source} to {pair.target}" for pair in pairs if pair.ping.lost]
    if lost:
        raise OverlaydError(f"packets were lost: {', '.join(lost)}", hint="look at: invoke cluster.status")
    report.show_next(_console, site)


@task(positional=["host"], help={"host": "host1, host2 …", **_NAME})
def shell(c: Context, host: str, name: str = "default") -> None:
    """Open a shell on a host."""
    machines = _site(name).machines
    if host not in machines:
        raise OverlaydError(f"cluster {name} has no host {host}", hint=f"it has {', '.join(sorted(machines))}")
    argv = machines[host].transport.login()
    os.execvp(argv[0], argv)


def requested_cluster(
    *,
    hosts: str = "3",
    backend: str = "vxlan",
    underlay: str | None = None,
    name: str = "default",
    machines: bool = False,
    kernel: str = "",
) -> Cluster:
    """The cluster that a command line asks for, without a base yet. Raises ConfigError; does no I/O."""
    wanted = Cluster(
        name=name,
        base="",
        hosts=options.whole_number("hosts", hosts),
        backend=backend_json(backend),
        underlay=UNDERLAY if underlay is None else options.underlay(underlay),
        machines=machines,
        kernel=options.kernel(kernel),
    )
    # With an unknown backend every host would wait for another network config for ever.
    backends.load(parse_network_config(wanted.network_config).backend_type)
    return wanted


def _site(name: str) -> ClusterSite:
    site = find(checked_name(name))
    if site is None:
        raise OverlaydError(f"there is no cluster {name}", hint="start one: invoke cluster.up")
    return site


def _say(text: str) -> None:
    _console.print(text, highlight=False, soft_wrap=True, markup=False)


namespace = Collection("cluster", up, down, status, show, shell)

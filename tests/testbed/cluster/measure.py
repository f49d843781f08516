"""Packets across a cluster, counted and timed: between containers, and between the hosts below them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from overlayd.errors import CommandFailed, OverlaydError
from tests.testbed.cluster.figures import HostPair, NotAFigure, Ping, parse_iperf3, parse_ping
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.polling import eventually
from tests.testbed.records import Connection

# Runs a command at one end and returns what it printed.
Run = Callable[..., str]

_SERVER_READY_S = 5.0


def ping(run: Run, address: IPv4Address, *, count: int = 5, interval_s: float = 0.2) -> Ping:
    """Ping an address; lost packets are a result, not an error. Raises NotAFigure when ping could not run.

    For the answer to its last packet ping waits for two round trips, or an interval if that is longer (ping(8), -W): a
    short interval counts as lost what is late.
    """
    argv = ["ping", "-n", "-q", "-c", str(count), "-i", str(interval_s), "-W", "1", str(address)]
    # ping ends with status 1 when nothing came back.
    return parse_ping(run("sh", "-c", f"{' '.join(argv)} 2>&1 || true"))


def connection(source: Machine, target: Machine, backend: str, *, count: int = 3) -> Connection:
    """A few pings from container to container, with what carries them. Raises NotAFigure when ping could not run."""
    answered = ping(source.in_probe, target.probe_address(), count=count)
    versions = source.run("sh", "-c", "docker version --format '{{.Server.Version}}' && uname -r").split()
    return Connection(
        source=source.name,
        target=target.name,
        backend=backend,
        docker=versions[0].partition("+")[0],
        kernel=versions[1],
        sent=answered.sent,
        lost=answered.lost,
    )


def rate(run: Run, serve: Run, address: IPv4Address, *, duration_s: int = 1) -> float:
    """The rate of one TCP flow from where `run` runs to `address`, in Gb/s. Raises OverlaydError.

    The other end's iperf3 server is started, by `serve`, when it does not run yet.
    """
    argv = ["iperf3", "--json", "--connect-timeout", "2000", "--time", str(duration_s), "--client", str(address)]
    client = f"{' '.join(argv)} 2>&1 || true"
    try:
        return parse_iperf3(run("sh", "-c", client))
    except NotAFigure:
        serve("iperf3", "--server", "--daemon")

    last: list[str] = []

    def measured() -> float:
        try:
            return parse_iperf3(run("sh", "-c", client))
        except NotAFigure as error:
            last[:] = [str(error)]
            return 0.0

    try:
        return eventually(f"a TCP flow to {address}", measured, timeout_s=_SERVER_READY_S)
    except OverlaydError as error:
        raise OverlaydError(f"{error.message}; {' '.join(last)}") from error


def overlay_rate(source: Machine, target: Machine, *, duration_s: int = 1) -> float:
    """The rate of one TCP flow from container to container, in Gb/s."""
    return rate(source.in_probe, target.in_probe, target.probe_address(), duration_s=duration_s)


def underlay_rate(source: Machine, target: Machine, *, duration_s: int = 1) -> float:
    """The rate of one TCP flow from host to host, in Gb/s."""
    return rate(source.in_underlay, target.in_underlay, target.address, duration_s=duration_s)


def matrix(site: ClusterSite, *, duration_s: int = 1) -> list[HostPair]:
    """Every ordered pair of hosts, one after another: each has the machine's processors for itself.

    The underlay is the same in both directions, and measured in one. A pair that does not reach each other is a result.
    """
    addresses = {machine.name: machine.probe_address() for machine in site.hosts}
    underlay: dict[frozenset[str], tuple[Ping, float]] = {}
    pairs = []
    for source, target in site.pairs:
        address, both = addresses[target.name], frozenset((source.name, target.name))
        try:
            if both not in underlay:
                below = ping(source.in_underlay, target.address)
                underlay[both] = (below, underlay_rate(source, target, duration_s=duration_s))
            above = ping(source.in_probe, address)
            reached = above.received > 0
            pairs.append(
                HostPair(
                    source=source.name,
                    target=target.name,
                    ping=above,
                    gbit_s=rate(source.in_probe, target.in_probe, address, duration_s=duration_s) if reached else 0.0,
                    underlay_ping=underlay[both][0],
                    underlay_gbit_s=underlay[both][1],
                )
            )
        except (CommandFailed, NotAFigure) as error:
            raise OverlaydError(
                f"{source.name} to {target.name}: {error}",
                hint=f"see: invoke cluster.shell {source.name} --name {site.cluster.name}",
            ) from error
    return pairs

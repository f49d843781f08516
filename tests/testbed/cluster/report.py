"""What the cluster's tasks print: tables of hosts and of figures."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from overlayd.errors import CommandFailed
from tests.testbed.cluster.figures import HostPair, Spread
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite


def show_hosts(console: Console, site: ClusterSite) -> None:
    """One row for every host: addresses, docker, and what its daemon says of itself."""
    table = Table(
        title=f"cluster {site.cluster.name}: etcd {site.cluster.etcd_endpoint}, {site.cluster.network_config}"
    )
    for column in ("host", "underlay", "subnet", "docker", "overlayd", "backend", "mtu", "peers"):
        table.add_column(column)
    for row in each(_host_row, site.hosts):
        table.add_row(*row)
    console.print(table)


def _host_row(machine: Machine) -> list[str]:
    if (state := machine.transport.state()) != "running":
        return [machine.name, str(machine.address), "", "", state, "", "", ""]
    # is-active tells by its exit status too; here its word is wanted.
    docker = machine.shell("systemctl is-active docker || true").strip()
    try:
        status = machine.status()
    except CommandFailed as error:
        return [machine.name, str(machine.address), "", docker, error.message.splitlines()[-1], "", "", ""]
    peers = status["peers"]
    bad = [f"{peer['subnet']}: {peer['problem']}" for peer in peers if peer["problem"]]
    state = status["state"] if not status["problem"] else f"{status['state']}: {status['problem']}"
    return [
        machine.name,
        str(machine.address),
        str(status["subnet"] or ""),
        docker,
        state,
        str(status["backend"] or ""),
        str(status["mtu_bytes"] or ""),
        "; ".join(bad) or f"{len(peers)} well",
    ]


def show_pairs(console: Console, site: ClusterSite, pairs: Sequence[HostPair]) -> None:
    """One row for every ordered pair, the overlay beside the underlay."""
    table = Table(title=f"container to container over {site.cluster.backend_type}, beside host to host")
    table.add_column("from")
    table.add_column("to")
    for column in ("lost", "round trip ms", "underlay ms", "Gb/s", "underlay Gb/s", "part"):
        table.add_column(column, justify="right")
    for pair in pairs:
        table.add_row(
            pair.source,
            pair.target,
            f"{pair.ping.lost} of {pair.ping.sent}",
            _ms(pair.ping.average_ms),
            _ms(pair.underlay_ping.average_ms),
            f"{pair.gbit_s:.2f}",
            f"{pair.underlay_gbit_s:.2f}",
            f"{pair.ratio:.2f}",
        )
    console.print(table)


def show_next(console: Console, site: ClusterSite) -> None:
    """What to try next."""
    if len(site.hosts) < 2:
        return
    first, second = site.hosts[0], site.hosts[1]
    name = site.cluster.name
    # Beside the default one each command has to say which.
    options, remove = (
        ("", "make down") if name == "default" else (f" --name {name}", f".venv/bin/invoke cluster.down --name {name}")
    )
    kind = " --machines" if site.cluster.machines else ""
    kind += f" --kernel {site.cluster.kernel}" if site.cluster.kernel else ""
    console.print(
        f"Try next:\n"
        f"  .venv/bin/invoke cluster.shell {first.name}{options}  a shell on a host; there: overlayd status\n"
        f"  {first.transport.typed(f'docker exec probe ping -c 3 {second.probe_address()}')}\n"
        f"  .venv/bin/invoke cluster.up --backend host-gw{kind}{options}  the same cluster over plain routes\n"
        f"  {remove}                               remove it all",
        highlight=False,
        soft_wrap=True,
    )


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def spread(value: Spread, digits: int = 2) -> str:
    """`median (lowest to highest)`."""
    return f"{value.median:.{digits}f} ({value.lowest:.{digits}f} to {value.highest:.{digits}f})"

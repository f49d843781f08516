"""Packets while a real dockerd or overlayd is restarted, reloaded, killed or upgraded.

Peers ping each other's containers every 10 ms and open new connections, and a stranger pings the containers too. No
packet of a peer may be lost, and no packet of the stranger may be answered.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network

import pytest

from overlayd.fastpath.programs import OBJECT
from tests.testbed.netns import lab as labs
from tests.testbed.netns.docker_site import ALONE, LIVE_RESTORE, DockerSite
from tests.testbed.netns.lab import SOURCES
from tests.testbed.netns.real_docker import Docker
from tests.testbed.netns.traffic import Losses, connecting_from, pinging_from
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

# By then the daemons have done what follows the event.
_SETTLE_S = 0.7
# The address of a host with Docker alone.
_MOVED = IPv4Network("198.19.8.0/24")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The effect of one event: what peers sent and lost, and which of a stranger's pings were answered."""

    event: str
    pings: Losses
    connections: Losses
    strangers: int


def reload_dockerd(site: DockerSite) -> None:
    docker = site.dockers["b"]
    docker.configure('{"live-restore": true, "debug": true}')
    docker.signal(signal.SIGHUP)
    eventually("it has reloaded", lambda: "Got signal to reload configuration" in docker.log("dockerd"))


def restart_dockerd(site: DockerSite) -> None:
    site.dockers["b"].signal(signal.SIGTERM)
    site.dockers["b"].start_for_lease()


def kill_dockerd(site: DockerSite) -> None:
    site.dockers["b"].signal(signal.SIGKILL)
    site.dockers["b"].start_for_lease()


def run_a_container(site: DockerSite) -> None:
    site.dockers["b"].run(f"{site.b.container}3")
    site.dockers["b"].drop(f"{site.b.container}3")


def restart_overlayd(site: DockerSite) -> None:
    site.b.stop()
    site.b.start()


def kill_overlayd(site: DockerSite) -> None:
    site.b.stop(signal.SIGKILL)
    site.b.start()


def upgrade_overlayd(site: DockerSite) -> None:
    site.b.stop()
    newer = site.b.run_dir.parent / "newer" / SOURCES.name
    shutil.copytree(SOURCES, newer)
    # A checkout has the fast path's programs in its build folder. Without them they would be taken away, and come back
    # with the next event.
    programs = newer.parent / OBJECT.relative_to(SOURCES.parent)
    programs.parent.mkdir(parents=True)
    shutil.copy(OBJECT, programs)
    with (newer / "overlayd/__init__.py").open("a") as file:
        file.write('__version__ += ".1"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labs, "SOURCES", newer)
        site.b.start()


def use_nftables(site: DockerSite) -> None:
    site.b.settings["firewall"] = "nftables"
    restart_overlayd(site)


def use_iptables(site: DockerSite) -> None:
    site.b.settings["firewall"] = "iptables"
    restart_overlayd(site)


EVENTS: dict[str, Callable[[DockerSite], None]] = {
    "dockerd reloaded": reload_dockerd,
    "dockerd restarted, live-restore": restart_dockerd,
    "dockerd killed, live-restore": kill_dockerd,
    "a container started and removed": run_a_container,
    "overlayd restarted": restart_overlayd,
    "overlayd killed": kill_overlayd,
    "overlayd upgraded": upgrade_overlayd,
    "overlayd's firewall to nftables": use_nftables,
    "dockerd restarted beside nftables": restart_dockerd,
    "overlayd's firewall to iptables": use_iptables,
}
# A dockerd from 28 on, as it starts, puts its drops (DOCKER-FORWARD) first in FORWARD, and half a second later
# DOCKER-USER, with our accept rule, before them. A connection that is opened in between is a second late. The same
# happens to administrators' rules in DOCKER-USER, and no rule elsewhere can undo a drop in FORWARD.
STARTS = ("dockerd restarted, live-restore", "dockerd killed, live-restore", "dockerd restarted beside nftables")


def test_no_packet_of_a_peer_is_lost_and_none_of_a_stranger_passes(
    site: DockerSite, capsys: pytest.CaptureFixture[str], record_property: Recorder
) -> None:
    rows = [measured(site, event, make) for event, make in EVENTS.items()]
    with capsys.disabled():
        # For people: what is in it is compared below.
        heads = ("pings lost", "connections lost", "stranger answered")
        print(f"\n{f'Docker {site.release.name}, real':33} {heads[0]:>12} {heads[1]:>17} {heads[2]:>18}")  # noqa: T201
        for row in rows:
            print(f"{row.event:33} {row.pings!s:>12} {row.connections!s:>17} {row.strangers:>18}")  # noqa: T201
    for row in rows:
        row.pings.fault(f"Docker {site.release.name}: {row.event}", "vxlan").record(record_property)
        record_property(f"Docker {site.release.name}, {row.event}: connections lost", str(row.connections))
    assert [row for row in rows if row.pings.lost or row.strangers] == []
    spared = STARTS if site.release.closes else ()
    assert [row for row in rows if row.connections.lost and row.event not in spared] == []


def test_containers_that_docker_restarted_are_reached_again(site: DockerSite) -> None:
    docker = site.dockers["b"]
    docker.configure("{}")
    docker.signal(signal.SIGTERM)
    docker.start_for_lease()
    try:
        for name in (site.b.container, site.second(site.b)):
            eventually("it runs", partial(_runs, docker, name))
            docker.find(name)
        eventually("peers reach each other", site.peers_reach_each_other)
        assert site.passed(site.b) == []
        for version in (4, 6):
            eventually("its port is published", partial(site.publishes, site.b, version))
    finally:
        docker.configure(LIVE_RESTORE)


def test_with_live_restore_the_bridge_moves_when_no_container_runs(site: DockerSite) -> None:
    docker, names = site.dockers["c"], (site.c.container, site.second(site.c))
    options = (f"--bip={_MOVED[1]}/24", "--ipv6", f"--fixed-cidr-v6={ALONE[6]}", "--ip-masq=false")
    docker.signal(signal.SIGTERM)
    docker.start(*options)
    # A restart alone does not move the bridge, whatever dockerd's options are.
    assert _bridge(site) == [f"{ALONE[4][1]}/24"]
    with docker.api() as api:
        for name in names:
            api.stop(name)
        docker.signal(signal.SIGTERM)
        docker.start(*options)
        assert _bridge(site) == [f"{_MOVED[1]}/24"]
        for name in names:
            api.start(name)
            assert docker.address(name) in _MOVED


def _bridge(site: DockerSite) -> list[str]:
    """The addresses of docker0 on the host with Docker alone."""
    words = site.c.run("ip", "-4", "-oneline", "address", "show", "dev", "docker0").split()
    return [after for word, after in itertools.pairwise(words) if word == "inet"]


def _runs(docker: Docker, name: str) -> bool:
    return bool(docker.inspect(name)["State"]["Running"])


def measured(site: DockerSite, event: str, make: Callable[[DockerSite], None]) -> Row:
    """Cause an event on b while peers and a stranger ping."""
    eventually("peers reach each other", site.peers_reach_each_other)
    at_a, at_b = site.addresses(site.a), site.addresses(site.b)
    ways = [(site.a, address) for address in at_b] + [(site.b, address) for address in at_a]
    with ExitStack() as stack:
        pings = [stack.enter_context(pinging_from(host.container, address)) for host, address in ways]
        asked = [stack.enter_context(connecting_from(host.container, address)) for host, address in ways]
        strangers = [stack.enter_context(pinging_from(site.stranger, address)) for address in at_b]
        make(site)
        time.sleep(_SETTLE_S)
    return Row(
        event=event,
        pings=_together(pings),
        connections=_together(asked),
        strangers=sum(one.received for one in strangers),
    )


def _together(losses: Sequence[Losses]) -> Losses:
    return Losses(
        sent=sum(one.sent for one in losses),
        received=sum(one.received for one in losses),
        gap_s=max(one.gap_s for one in losses),
    )

"""Three real releases of Docker: peers reach each other's containers, and nobody else does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.testbed.cluster.roots import NoSuchRelease
from tests.testbed.netns import namespaces
from tests.testbed.netns.docker_site import DockerSite, docker_site
from tests.testbed.netns.lab import SWITCH_ADDRESS
from tests.testbed.netns.real_docker import RELEASES, DockerRelease
from tests.testbed.netns.traffic import reaches, send_over_tcp
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder


def test_peers_reach_each_other_with_their_own_addresses(site: DockerSite, record_property: Recorder) -> None:
    try:
        eventually("in both families", site.peers_reach_each_other)
    finally:
        for one in site.connections("vxlan"):
            one.record(record_property)
    at_a, at_b = (site.dockers[host.name].address(host.container) for host in (site.a, site.b))
    assert send_over_tcp(site.a, site.b, b"x" * 100_000, address=at_b).peer == at_a


def test_docker_does_what_its_options_ask_for(site: DockerSite) -> None:
    for host in (site.a, site.b):
        link = json.loads(namespaces.run(host.container, ["ip", "-json", "link", "show", "eth0"]))[0]
        assert link["mtu"] == host.mtu_bytes
        assert site.dockers[host.name].address(host.container) in host.subnet
        assert site.addresses(host)[1] in (host.subnet6 or ())
        # A host without a route to containers can answer only masqueraded packets; Docker is told not to masquerade.
        assert reaches(host, SWITCH_ADDRESS)
        saved = host.run("iptables-save", "-t", "nat").splitlines()
        assert [line for line in saved if f"-s {host.subnet} " in line and "MASQUERADE" in line] == []


def test_strangers_get_no_further_than_with_docker_alone(site: DockerSite, capsys: pytest.CaptureFixture[str]) -> None:
    ways = [str(way) for way in site.ways(site.b)]
    ours, alone = site.passed(site.b), site.passed(site.c)
    for host in (site.b, site.c):
        assert all(site.publishes(host, version) for version in (4, 6))
    with capsys.disabled():
        # The table is for readers of the log; the comparison follows.
        print(f"\nDocker {site.release.name}, real, strangers: with overlayd | with Docker alone")  # noqa: T201
        for way in ways:
            print(f"  {way:55} {_word(way in ours):6} | {_word(way in alone)}")  # noqa: T201
    assert ours == []
    # Docker alone leaves open: published ports before 28, and all of IPv6 before 27.
    published = ["a published port at the container's own address (4)"]
    expected = [] if site.release.closes else published
    if not site.release.ipv6:
        expected = expected + [way for way in ways if way.endswith("(6)")]
    assert alone == expected
    # Without any rules all these packets arrive, so only rules block them.
    site.c.run("nft", "flush", "ruleset")
    assert site.passed(site.c) == ways


def test_an_administrators_drop_wins(site: DockerSite) -> None:
    rule = ("DOCKER-USER", "-s", str(site.dockers["a"].address(site.a.container)), "-j", "DROP")
    eventually("peers reach each other", site.peers_reach_each_other)
    at_b = site.addresses(site.b)[0]
    site.b.run("iptables", "-I", *rule)
    try:
        eventually("a is dropped by b", lambda: not reaches(site.a, at_b))
        # The drop still wins after the daemon's next looks.
        time.sleep(3)
        assert not reaches(site.a, at_b)
    finally:
        site.b.run("iptables", "-D", *rule)
    eventually("a reaches b again", lambda: reaches(site.a, at_b))


@pytest.mark.parametrize(
    "release", [pytest.param(one, id=one.name, marks=() if one.closes else pytest.mark.slow) for one in RELEASES]
)
def test_peers_and_strangers_by_plain_routes(release: DockerRelease, tmp_path: Path, record_property: Recorder) -> None:
    # With plain routes, packets of peers arrive on the underlay's interface, as those of strangers do.
    try:
        release.root()
    except NoSuchRelease as error:
        pytest.skip(error.message)
    with docker_site(tmp_path, release, "host-gw") as site:
        for one in site.connections("host-gw"):
            one.record(record_property)
        assert site.passed(site.b) == []
        assert all(site.publishes(site.b, version) for version in (4, 6))


def _word(through: bool) -> str:
    return "open" if through else "closed"

"""Docker as people have it, three releases: peers reach each other's containers, and nobody else does."""

from __future__ import annotations

import time

import pytest

from tests.kernel.docker_site import Site
from tests.kernel.traffic import reaches, send_over_tcp
from tests.polling import eventually


def test_peers_reach_each_other_with_their_own_addresses(site: Site) -> None:
    eventually("in both families", site.peers_reach_each_other)
    at_a, at_b = (site.dockers[host.name].address(host.container) for host in (site.a, site.b))
    assert send_over_tcp(site.a, site.b, b"x" * 100_000, address=at_b).peer == at_a


def test_strangers_get_no_further_than_with_docker_alone(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    ways = [str(way) for way in site.ways(site.b)]
    ours, alone = site.passed(site.b), site.passed(site.c)
    for host in (site.b, site.c):
        assert all(site.publishes(host, version) for version in (4, 6))
    with capsys.disabled():
        # For people: what is in it is compared below.
        print(f"\nDocker {site.release.name}, real, strangers: with overlayd | with Docker alone")  # noqa: T201
        for way in ways:
            print(f"  {way:55} {_word(way in ours):6} | {_word(way in alone)}")  # noqa: T201
    assert ours == []
    # What Docker alone leaves open: before 28 published ports, and before 27 all of IPv6.
    published = ["a published port at the container's own address (4)"]
    expected = [] if site.release.closes else published
    if not site.release.ipv6:
        expected = expected + [way for way in ways if way.endswith("(6)")]
    assert alone == expected
    # The ways are ways: nothing but rules closes them.
    site.c.run("nft", "flush", "ruleset")
    assert site.passed(site.c) == ways


def test_an_administrators_drop_wins(site: Site) -> None:
    rule = ("DOCKER-USER", "-s", str(site.dockers["a"].address(site.a.container)), "-j", "DROP")
    eventually("peers reach each other", site.peers_reach_each_other)
    at_b = site.addresses(site.b)[0]
    site.b.run("iptables", "-I", *rule)
    try:
        eventually("a is dropped by b", lambda: not reaches(site.a, at_b))
        # And at the daemon's next looks.
        time.sleep(3)
        assert not reaches(site.a, at_b)
    finally:
        site.b.run("iptables", "-D", *rule)
    eventually("a reaches b again", lambda: reaches(site.a, at_b))


def _word(through: bool) -> str:
    return "open" if through else "closed"

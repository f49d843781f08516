"""Docker's options, and what daemon.json has to say about them."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from overlayd import docker
from overlayd.lease import Subnets

SUBNET = Subnets(v4=IPv4Network("10.5.52.0/24"))
BOTH = Subnets(v4=IPv4Network("10.5.52.0/24"), v6=IPv6Network("fd42:0:0:7::/64"))
WANT = docker.wanted(SUBNET, 1450, we_masquerade=True)


def test_docker_gets_the_subnets_first_address_and_leaves_masquerading_to_us() -> None:
    given, problems = docker.flags(WANT, docker.Told())
    assert (given, problems) == (["--bip=10.5.52.1/24", "--ip-masq=false", "--mtu=1450"], [])
    assert docker.wanted(SUBNET, 1450, we_masquerade=False).options()["ip-masq"] == "true"


def test_docker_gets_an_ipv6_subnet_too() -> None:
    given, _problems = docker.flags(docker.wanted(BOTH, 1430, we_masquerade=True), docker.Told())
    assert {"--bip=10.5.52.1/24", "--ipv6=true", "--fixed-cidr-v6=fd42:0:0:7::/64"} <= set(given)
    has = (IPv4Interface("10.5.52.1/24"), IPv6Interface("fd42:0:0:7::1/64"), IPv6Interface("fe80::1/64"))
    assert docker.bridge_problem(BOTH, has) is None
    assert "10.5.52.1/24, not" in str(docker.bridge_problem(BOTH, (has[0], has[2])))


def test_an_option_in_daemon_json_is_not_given_twice() -> None:
    # dockerd refuses an option that is in both, even with the same value.
    given, problems = docker.flags(WANT, docker.Told(daemon_json={"bip": "10.5.52.1/24", "mtu": 1450}))
    assert (given, problems) == (["--ip-masq=false"], [])


def test_more_options_are_given_like_the_leases_own() -> None:
    also = {"allow-direct-routing": "true", "bridge-accept-fwmark": "0x1/0x3"}
    given, problems = docker.flags(WANT, docker.Told(daemon_json={"bridge-accept-fwmark": "0x1/0x3"}), also)
    assert given[3:] == ["--allow-direct-routing=true"]
    assert problems == []
    _, problems = docker.flags(WANT, docker.Told(daemon_json={"allow-direct-routing": False}), also)
    assert "allow-direct-routing" in problems[0]


def test_a_contradiction_in_daemon_json_is_reported_not_fought() -> None:
    given, problems = docker.flags(WANT, docker.Told(daemon_json={"bip": "172.30.0.1/16", "ip-masq": True}))
    assert given == ["--mtu=1450"]
    assert [("172.30.0.1/16" in text, "10.5.52.1/24" in text) for text in problems] == [(True, True), (False, False)]


def test_another_bridge_takes_no_bip() -> None:
    given, problems = docker.flags(WANT, docker.Told(daemon_json={"bridge": "br0"}))
    assert "--bip=10.5.52.1/24" not in given
    assert "'br0'" in problems[0]


def test_a_broken_daemon_json_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    assert docker.read_daemon_json(file) == ({}, [])
    for text in ("{", "[]", "\x00"):
        file.write_text(text)
        found, problems = docker.read_daemon_json(file)
        assert found == {}
        assert str(file) in problems[0]


def test_a_bridge_off_the_lease_is_noticed() -> None:
    assert docker.bridge_problem(SUBNET, None) is None
    assert docker.bridge_problem(SUBNET, (IPv4Interface("10.5.52.1/24"),)) is None
    assert "172.17.0.1/16" in str(docker.bridge_problem(SUBNET, (IPv4Interface("172.17.0.1/16"),)))
    assert "no address" in str(docker.bridge_problem(SUBNET, ()))

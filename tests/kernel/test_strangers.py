"""Which strangers' packets reach containers: a matrix of strangers, paths, backends, firewalls and Docker releases.

A cell fails if a packet arrives that would not arrive with Docker alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from overlayd.backends.vxlan import vtep_mac
from overlayd.errors import CommandFailed
from tests.testbed.netns import namespaces, wire
from tests.testbed.netns.docker_releases import RELEASES, ReplayedRelease, load
from tests.testbed.netns.forwarding import use_iptables
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.strangers import (
    BESIDE,
    CARRIERS,
    HOST_PORT,
    SECRET_PORT,
    USER_BRIDGE,
    VNI,
    Attempt,
    StrangersSite,
    arrived,
    strangers_site,
)
from tests.testbed.netns.traffic import pings, pings6
from tests.testbed.polling import eventually

BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "auto": {"Type": "auto"},
    "udp": {"Type": "udp"},
    "wireguard": {"Type": "wireguard"},
}
DUAL = ("vxlan", "host-gw", "auto")
# One release of each kind: only the policy drops; drops in raw; nftables.
USUAL = ("20.10", "28.2", "29-nftables")
# Each host has its own dockerd settings, since `ip netns exec` gives the command its own mount namespace.
_OWN_DAEMON_JSON = 'mkdir -p /etc/docker && mount --bind "$0" /etc/docker && exec "$@"'


# Each backend once; with the other firewall it is slow.
FIREWALLS = {"vxlan": "iptables", "host-gw": "nftables", "auto": "iptables", "udp": "nftables", "wireguard": "nftables"}
PAIRS = [
    pytest.param(backend, firewall, marks=() if firewall == usual else pytest.mark.slow, id=f"{backend}-{firewall}")
    for backend, usual in FIREWALLS.items()
    for firewall in ("iptables", "nftables")
]


@pytest.fixture
def site(backend: str, firewall: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StrangersSite]:
    """Two hosts and the strangers around them, still without Docker."""
    (tmp_path / "bin").mkdir()
    use_iptables("nft", tmp_path / "bin", monkeypatch)
    with laboratory(tmp_path, BACKENDS[backend], dual=backend in DUAL) as lab:
        for name in ("a", "b"):
            host = lab.host(name, start=False, settings={"firewall": firewall, "fast-path": "auto"})
            host.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
            use_daemon_json(host, "{}")
            host.start()
            host.start_container()
        with strangers_site(lab, backend) as found:
            yield found


@pytest.mark.parametrize(("backend", "firewall"), PAIRS)
def test_only_peers_reach_containers(
    site: StrangersSite, backend: str, firewall: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = try_all(site, [release for release in RELEASES if release.name in USUAL])
    report(found, f"{backend}, {firewall}", capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "firewall"), PAIRS)
def test_only_peers_reach_containers_with_any_docker(
    site: StrangersSite, backend: str, firewall: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report(try_all(site, RELEASES), f"{backend}, {firewall}", capsys)


@dataclass(frozen=True)
class Found:
    """All attempts, and by release the indices of those that succeeded: with overlayd, and with Docker alone."""

    attempts: list[Attempt]
    ours: dict[str, set[int]]
    alone: dict[str, set[int]]


def try_all(site: StrangersSite, releases: list[ReplayedRelease]) -> Found:
    """Make every attempt with each release, with overlayd and without."""
    attempts = list(site.attempts())
    ours = {}
    for release in releases:
        docker(site, release)
        for host in (site.a, site.b):
            eventually("our rules", partial(has_rules, host))
        eventually("peers reach each other", lambda: pings(site.a, site.b) and pings(site.b, site.a))
        if site.lab.dual and release.ipv6:
            eventually("and in IPv6", lambda: pings6(site.a, site.b) and pings6(site.b, site.a))
        ours[release.name] = arrived(site, attempts)
    for host in (site.a, site.b):
        host.stop()
        subnets = host.run_dir / "subnet.env"
        held = subnets.read_text()
        host.cleanup()
        # For readers of a failure: who has which address.
        subnets.write_text(held)
    alone = {}
    for release in releases:
        docker(site, release)
        alone[release.name] = arrived(site, attempts)
    return Found(attempts, ours, alone)


def report(found: Found, title: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the matrix; fail if a cell is open that should be closed."""
    with capsys.disabled():
        # The table is for readers of the log; the comparison follows.
        print(f"\n{title}\n" + "\n".join(matrix(found)))  # noqa: T201
    bad = [
        f"{attempt} over IPv{attempt.version}, Docker {release}"
        for release, seen in found.ours.items()
        for number, attempt in enumerate(found.attempts)
        if number in seen and number not in found.alone[release] and not attempt.open_by_nature
    ]
    assert not bad, "\n".join(bad)


def matrix(found: Found) -> Iterator[str]:
    """One line for each stranger and path, one column for each release of Docker."""
    width = max(len(f"{attempt} (6)") for attempt in found.attempts)
    yield f"{'':{width}}  " + "  ".join(f"{name:>15}" for name in found.ours)
    for number, attempt in enumerate(found.attempts):
        cells = [cell(number, attempt, found.ours[name], found.alone[name]) for name in found.ours]
        yield f"{f'{attempt} ({attempt.version})':{width}}  " + "  ".join(f"{one:>15}" for one in cells)


def cell(number: int, attempt: Attempt, ours: set[int], alone: set[int]) -> str:
    """The result of an attempt, in one word."""
    if number not in ours:
        return "closed by us" if number in alone else "closed"
    if number in alone:
        return "as Docker alone"
    return "cannot be told" if attempt.open_by_nature else "OPEN"


def docker(site: StrangersSite, release: ReplayedRelease) -> None:
    """Replace all rules by those of a release, as if dockerd had been started."""
    for host in (site.a, site.b):
        daemon_json(host).write_text('{"firewall-backend": "nftables"}' if release.nftables else "{}")
        host.run("nft", "flush", "ruleset")
        for command in ("iptables", "ip6tables"):
            # Forwarding is on, by Docker or by the daemon before it.
            host.run(command, "-P", "FORWARD", "DROP")
            if site.backend in CARRIERS:
                # As administrators open the backend's port, while their firewall closes all others.
                port = str(CARRIERS[site.backend])
                host.run(command, "-A", "INPUT", "-p", "udp", "--dport", port, "-j", "ACCEPT")
        subnets: list[IPv4Network | IPv6Network] = [host.subnet]
        if host.subnet6 is not None:
            subnets.append(host.subnet6)
        for subnet in subnets:
            if subnet.version == 4 or release.ipv6:
                load(release, host.namespace, subnet, subnet[2], options=options_of(release))
        for way in (("-i", USER_BRIDGE, "!", "-o", USER_BRIDGE), ("-o", USER_BRIDGE, "-m", "conntrack", *_KNOWN)):
            host.run("iptables", "-A", "FORWARD", *way, "-j", "ACCEPT")
        net = f"{host.run('ip', '-4', '-br', 'address', 'show', USER_BRIDGE).split()[2]}"
        host.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", net, "!", "-o", USER_BRIDGE, "-j", "MASQUERADE")


_KNOWN = ("--ctstate", "RELATED,ESTABLISHED")


def options_of(release: ReplayedRelease) -> dict[str, str]:
    """The options that dockerd needs for this release's firewall backend."""
    if not release.nftables:
        return {}
    return {"allow-direct-routing": "true", "bridge-accept-fwmark": "0x1000/0x1000"}


def daemon_json(host: Host) -> Path:
    """The dockerd settings of a host."""
    return host.run_dir.parent / "docker" / "daemon.json"


def use_daemon_json(host: Host, text: str) -> None:
    """Give a host its own dockerd settings, before its daemon starts."""
    daemon_json(host).parent.mkdir()
    daemon_json(host).write_text(text)
    host.launcher = ("sh", "-c", _OWN_DAEMON_JSON, str(daemon_json(host).parent))


def has_rules(host: Host) -> bool:
    """Whether our rules are there."""
    found = [host.run("iptables-save")] + ([host.run("ip6tables-save")] if host.subnet6 else [])
    return all("-j OVERLAYD-PREROUTING" in rules and "-j OVERLAYD-DOCKER" in rules for rules in found)


def test_without_our_rules_the_same_strangers_get_in(tmp_path: Path) -> None:
    with laboratory(tmp_path, BACKENDS["vxlan"]) as lab:
        for name in ("a", "b"):
            lab.host(name, settings={"firewall": "none"})
        with strangers_site(lab, "vxlan") as found:
            attempts = list(found.attempts())
            seen = arrived(found, attempts)
            open_ways = {str(attempts[number]) for number in seen}
            assert "beside: the backend's port" in open_ways
            assert "container of a: the backend's port, as nobody" in open_ways
            assert "behind: the container" in open_ways or "beside: the container" in open_ways
            said = found.b.status()["warnings"]
            assert any("udp port 8472 over IPv4" in warning for warning in said), said


@pytest.mark.parametrize(
    "backend",
    ["vxlan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("host-gw", "udp")), "wireguard"],
)
def test_a_peer_whose_lease_ended_is_a_stranger(backend: str, tmp_path: Path) -> None:
    with laboratory(tmp_path, BACKENDS[backend]) as lab:
        for name in ("a", "b", "former"):
            lab.host(name)
        a, b, former = lab.hosts
        eventually("it is a peer", lambda: pings(former, b) and pings(b, former) and pings(a, b))
        # It still sends: only its daemon has ended, and its kernel has all routes and devices.
        former.stop()
        lab.etcdctl("del", f"/coreos.com/network/subnets/{former.subnet}".replace("/24", "-24"))
        eventually("its packets are dropped", lambda: not arrives(former, b))
        eventually("by the other one too", lambda: not arrives(former, a))
        eventually("who is a peer stays one", lambda: arrives(a, b))


def arrives(source: Host, target: Host) -> bool:
    """Whether a datagram from container to container arrives."""
    seen = wire.Sightings()
    with wire.watching(target.container, "eth0", seen):
        wire.as_nobody(source.container, target.container_address, SECRET_PORT, wire.token(7))
    return bool(seen.numbers)


@pytest.mark.parametrize("dual", [False, True], ids=["IPv4", "dual stack"])
def test_a_router_advertisement_through_the_overlay_changes_no_route(dual: bool, tmp_path: Path) -> None:
    with laboratory(tmp_path, BACKENDS["vxlan"], dual=dual) as lab:
        for name in ("a", "b"):
            host = lab.host(name, start=False, settings={"firewall": "none"})
            # The settings of a host that uses advertisements; new interfaces inherit them.
            host.run("sysctl", "-qw", "net.ipv6.conf.default.accept_ra=1", "net.ipv6.conf.eth0.accept_ra=0")
            host.start()
            host.start_container()
        with strangers_site(lab, "vxlan") as found:
            b = found.b
            # dockerd turns this off on docker0; no dockerd runs here, so the test does.
            b.run("sysctl", "-qw", "net.ipv6.conf.docker0.accept_ra=0")
            packet = wire.advertisement(IPv6Address("fe80::66"))
            everybody = "33:33:00:00:00:01"
            for mac in (everybody, vtep_mac(b.address, VNI)):
                carried = wire.vxlan(VNI, wire.frame(mac, "02:66:66:66:66:66", packet))
                outer = wire.udp(found.beside.addresses[4], b.address, CARRIERS["vxlan"], carried)
                found.beside.put("b", outer)
            inside = found.container(b)
            inside.gateways["all"] = everybody
            inside.put("all", packet)
            time.sleep(1)
            routes = b.run("ip", "-6", "route")
            assert "proto ra" not in routes, routes
            assert "fd66:6:6:6" not in b.run("ip", "-6", "address") + routes
            assert b.run("sysctl", "-n", "net.ipv6.conf.default.accept_ra").strip() == "1"


@pytest.mark.parametrize("told", ["{}", '{"ip-forward": false}'], ids=["no daemon.json", "ip-forward off"])
@pytest.mark.parametrize("firewall", ["iptables", "nftables"])
def test_a_host_does_not_forward_for_strangers(
    firewall: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    use_iptables("nft", tmp_path / "bin", monkeypatch)
    with laboratory(tmp_path, BACKENDS["vxlan"], dual=True) as lab:
        host = lab.host("a", start=False, settings={"firewall": firewall})
        host.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
        use_daemon_json(host, told)
        host.start()
        host.start_container()
        for command in ("iptables", "ip6tables"):
            assert "-P FORWARD DROP" in host.run(command, "-S", "FORWARD")
        assert host.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
        # If forwarding was already on, the policy is the administrator's and stays.
        host.run("iptables", "-P", "FORWARD", "ACCEPT")
        host.stop()
        host.start()
        assert "-P FORWARD ACCEPT" in host.run("iptables", "-S", "FORWARD")


@pytest.mark.parametrize("firewall", ["iptables", "nftables"])
def test_trusted_networks_reach_containers_and_only_they(firewall: str, tmp_path: Path) -> None:
    with laboratory(tmp_path, BACKENDS["vxlan"]) as lab:
        for name in ("a", "b"):
            lab.host(name, settings={"firewall": firewall, "trusted-networks": "198.18.1.200/32,198.18.77.0/24"})
        with strangers_site(lab, "vxlan") as found:
            eventually("a and b are peers", lambda: pings(found.a, found.b))
            trusted, other = found.beside, found.behind
            namespaces.ip(trusted.namespace, f"route add {found.b.subnet} via {found.b.address}")
            namespaces.ip(trusted.namespace, f"route add {found.a.subnet} via {found.b.address}")
            for target in (found.b, found.a):
                namespaces.run(trusted.namespace, ["ping", "-n", "-c", "1", "-W", "2", str(target.container_address)])
            with pytest.raises(CommandFailed):
                namespaces.run(other.namespace, ["ping", "-n", "-c", "1", "-W", "1", str(found.b.container_address)])


@pytest.mark.parametrize("table", ["raw", "mangle"])
def test_nothing_is_opened_where_strangers_cannot_be_kept_out(table: str, tmp_path: Path) -> None:
    with laboratory(tmp_path, BACKENDS["vxlan"]) as lab:
        host = lab.host("a", start=False, settings={"firewall": "iptables"})
        host.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
        real = shutil.which("iptables-restore")
        script = f"text=$(cat); case $text in *'*{table}'*) echo no such table >&2; exit 1;; esac; "
        host.install("iptables-restore", f'{script}printf \'%s\\n\' "$text" | {real} "$@"')
        host.start(ready=False)
        eventually("it says so", lambda: "the backend is not opened" in str(host.status().get("problem")))
        assert "overlay.1" not in host.run("ip", "-br", "link")
        assert host.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "0"
        assert "-A OVERLAYD-DOCKER" not in host.run("iptables-save")
        (host.bin_dir / "iptables-restore").unlink()
        eventually("then it is ready", lambda: host.status()["state"] == "ready")


def test_a_neighbour_with_an_address_in_a_wide_network_reaches_hosts_and_no_container(tmp_path: Path) -> None:
    with laboratory(tmp_path, BACKENDS["vxlan"]) as lab:
        for name in ("a", "b"):
            lab.host(name)
        with strangers_site(lab, "vxlan") as found:
            # Behind the router, as the administrators are.
            namespaces.ip(lab.switch, "address add 10.5.250.1/24 dev pb")
            namespaces.ip(found.behind.namespace, "address add 10.5.250.2/24 dev eth0")
            administrator = IPv4Address("10.5.250.2")
            seen = wire.Sightings()
            with (
                wire.watching(found.b.container, "eth0", seen),
                wire.listening(found.b.namespace, HOST_PORT, seen),
            ):
                to_host = wire.udp(administrator, found.b.address, HOST_PORT, wire.token(1))
                to_container = wire.udp(administrator, found.b.container_address, SECRET_PORT, wire.token(2))
                for packet in (to_host, to_container):
                    found.behind.put("router", packet)
            assert seen.numbers == {1}


def test_containers_on_the_previous_subnet_still_reach_the_outside(tmp_path: Path) -> None:
    with laboratory(tmp_path, BACKENDS["vxlan"]) as lab:
        host = lab.host("a")
        with around_one(lab) as other:
            namespaces.ip(host.namespace, "address flush dev docker0", "address add 10.5.251.1/24 dev docker0")
            namespaces.ip(
                host.container,
                "address flush dev eth0",
                "address add 10.5.251.2/24 dev eth0",
                "route replace default via 10.5.251.1",
            )
            seen = wire.Sightings()
            with wire.watching(other, "eth0", seen):
                wire.as_nobody(host.container, BESIDE[4], SECRET_PORT, wire.token(3))
            assert seen.numbers == {3}


@contextmanager
def around_one(lab: Lab) -> Iterator[str]:
    """A namespace on the segment that is not a host of the network."""
    name = namespaces.unique("other")
    namespaces.make(name)
    try:
        namespaces.ip(lab.switch, f"link add po type veth peer name eth0 netns {name}", "link set po master br0 up")
        namespaces.ip(name, f"address add {BESIDE[4]}/24 dev eth0", "link set eth0 up")
        yield name
    finally:
        namespaces.remove(name)

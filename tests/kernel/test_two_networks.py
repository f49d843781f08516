"""Two networks on the same two hosts: each carries its own packets, and neither changes the other."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from overlayd.backends.vxlan import vtep_mac
from tests.kernel.test_quiet import RESYNC_S, RESYNCS, kept_rules, looks, settled
from tests.kernel.test_reach import measured
from tests.testbed.netns import namespaces, wire
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.netlink_events import NetlinkListener
from tests.testbed.netns.second_network import NETWORK, PREFIX, SecondNetworkHost, configure
from tests.testbed.netns.traffic import Losses, pinging, pings
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

SETTINGS: dict[str, object] = {"resync-s": RESYNC_S}
BOTH: dict[str, tuple[dict[str, Any], str]] = {
    "vxlan, iptables": ({"Type": "vxlan", "Port": 8473}, "iptables"),
    "host-gw, nftables": ({"Type": "host-gw"}, "nftables"),
}
PORT = 5000
# The VXLAN ports of networks 0 and 1.
CARRIERS = (8472, 8473)
# For tests that depend neither on the backend nor on the firewall.
ONCE = pytest.mark.parametrize("site", ["vxlan, iptables"], indirect=True)


@dataclass(frozen=True)
class Site:
    """Two hosts, in network 0 and in network 1."""

    lab: Lab
    first: tuple[Host, Host]
    second: tuple[SecondNetworkHost, SecondNetworkHost]


@pytest.fixture(scope="module", params=["vxlan, iptables", pytest.param("host-gw, nftables", marks=pytest.mark.slow)])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both networks, shared by the tests; a test that breaks something repairs it."""
    backend, firewall = BOTH[request.param]
    folder = tmp_path_factory.mktemp("two")
    with laboratory(folder, {"Type": "vxlan"}) as lab, ExitStack() as stack:
        configure(lab, backend)
        first, second = [], []
        for name in ("a", "b"):
            host = lab.host(name, start=False, settings={**SETTINGS, "firewall": firewall})
            beside = SecondNetworkHost(lab, host, folder / "second", resync_s=RESYNC_S, firewall=firewall)
            stack.callback(beside.remove)
            for one in (host, beside):
                one.start()
                one.start_container()
            first.append(host)
            second.append(beside)
        made = Site(lab=lab, first=(first[0], first[1]), second=(second[0], second[1]))
        for one in (*first, *second):
            eventually(f"{one.name} knows the other", lambda one=one: settled(one))  # type: ignore[misc]
        yield made


@pytest.fixture
def lab(site: Site) -> Lab:
    """The state that the report of a failed test shows."""
    return site.lab


def test_containers_of_each_network_reach_each_other_across_hosts(site: Site) -> None:
    for a, b in (site.first, site.second):
        eventually("a reaches b", lambda a=a, b=b: pings(a, b) and pings(b, a))  # type: ignore[misc]
        # The echoes come from containers of that network, not from those on docker0.
        eventually("a says so", lambda a=a: [one["state"] for one in measured(a)] == ["reached"], timeout_s=40)  # type: ignore[misc]
        assert a.status()["probed_from"] == f"container {a.container_address}"
    assert site.first[0].subnet.subnet_of(IPv4Network("10.5.0.0/16"))
    assert site.second[0].subnet.subnet_of(IPv4Network(NETWORK))


def test_no_container_reaches_the_other_network(site: Site) -> None:
    number = itertools.count(1)
    tried: dict[int, str] = {}
    seen = wire.Sightings()
    with ExitStack() as stack:
        for host in (*site.first, *site.second):
            stack.enter_context(wire.watching(host.container, "eth0", seen))
        for mine, theirs in ((site.first, site.second), (site.second, site.first)):
            own = mine[0]
            mac, gateway = wire.mac_of(own.container, "eth0"), wire.mac_of(own.namespace, bridge_of(own))
            sources: dict[str, IPv4Address] = {
                "its own": own.container_address,
                "its peer's": mine[1].container_address,
                "the other network's, here": theirs[0].container_address,
                "the other network's, there": theirs[1].container_address,
                "a host's": theirs[1].address,
            }
            for target in theirs:
                for what, source in sources.items():
                    one = next(number)
                    tried[one] = f"{own.name} to {target.name} as {what}"
                    packet = wire.udp(source, target.container_address, PORT, wire.token(one))
                    wire.send(own.container, "eth0", [wire.frame(gateway, mac, packet)])
                # A hand-made packet, as the other network's backend would send it (host-gw has no such port).
                one = next(number)
                tried[one] = f"{own.name} to {target.name} in VXLAN"
                peer = theirs[target is theirs[0]]
                inner = wire.udp(peer.container_address, target.container_address, PORT, wire.token(one))
                outer = wire.frame(vtep_mac(target.address, 1), mac, inner)
                port = CARRIERS[theirs is site.second]
                packet = wire.udp(own.container_address, target.address, port, wire.vxlan(1, outer))
                wire.send(own.container, "eth0", [wire.frame(gateway, mac, packet)])
            # This shows that the container would receive it.
            one = next(number)
            packet = wire.udp(own.container_address, mine[1].container_address, PORT, wire.token(one))
            wire.send(own.container, "eth0", [wire.frame(gateway, mac, packet)])
            tried[one] = ""
    assert [tried[one] for one in sorted(seen.numbers)] == ["", ""]


def test_strangers_are_kept_out_by_both_networks_rules(site: Site) -> None:
    """A container on a Docker network sends with a peer's address: the rules of both networks are applied."""
    seen, sent = wire.Sightings(), {}
    host = site.first[0]
    stranger = namespaces.unique("stranger")
    namespaces.make(stranger)
    try:
        namespaces.ip(
            host.namespace,
            "link add br-user type bridge",
            "address add 172.30.1.1/24 dev br-user",
            f"link add vuser type veth peer name eth0 netns {stranger}",
            "link set vuser master br-user up",
            "link set br-user up",
        )
        namespaces.ip(stranger, "link set eth0 up")
        mac, gateway = wire.mac_of(stranger, "eth0"), wire.mac_of(host.namespace, "br-user")
        with ExitStack() as stack:
            for one in (site.first[0], site.second[0]):
                stack.enter_context(wire.watching(one.container, "eth0", seen))
            for number, (a, b) in enumerate((site.first, site.second)):
                for odd, source in enumerate((b.container_address, IPv4Address("172.30.1.2"))):
                    sent[2 * number + odd] = wire.udp(source, a.container_address, PORT, wire.token(2 * number + odd))
            wire.send(stranger, "eth0", [wire.frame(gateway, mac, packet) for packet in sent.values()])
        # Docker, which does not run in this lab, separates its own networks from each other.
        assert seen.numbers == {1, 3}
    finally:
        namespaces.ip(host.namespace, "link delete br-user")
        namespaces.remove(stranger)


def bridge_of(host: Host) -> str:
    return host.bridge if isinstance(host, SecondNetworkHost) else "docker0"


def changed(site: Site, network: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """A change of one network on one host, during which the other network must lose no packet."""
    mine, other = site.first[0], site.second[0]
    one = (mine, other)[network]
    flush = "for t in raw mangle nat filter; do iptables-save -t $t | sed -n 's/^:\\(%s-[A-Z]*\\) .*/\\1/p' |"
    flush += " while read c; do iptables -t $t -F $c; done; done"
    flush += "; nft delete table ip %s || true"
    marks = ("OVERLAYD1", "overlayd1") if network else ("OVERLAYD", "overlayd")

    def restart() -> None:
        one.stop()
        one.start()

    def anew() -> None:
        one.stop()
        assert one.cleanup()
        one.start()

    yield "restart", restart
    yield "flush", lambda: one.run("sh", "-c", flush % marks)
    yield "cleanup", anew


@pytest.mark.parametrize("network", [0, 1])
def test_what_is_done_to_one_network_loses_no_packet_of_the_other(
    site: Site, network: int, record_property: Recorder
) -> None:
    (a, b), touched = (site.second, site.first)[network], (site.first, site.second)[network]
    eventually("it is whole", lambda: pings(a, b))
    found: dict[str, Losses] = {}
    for what, do in changed(site, network):
        until = time.monotonic() + 1
        with pinging(a, b) as losses:
            do()
            eventually(f"{what} is over", lambda: settled(touched[0]) and pings(*touched))
            eventually("a second went by", lambda until=until: time.monotonic() > until)  # type: ignore[misc]
        losses.fault(f"network {network + 1}: {what}, packets of the other", a.status()["backend"]).record(
            record_property
        )
        found[what] = losses
    assert {what: losses.lost for what, losses in found.items()} == dict.fromkeys(found, 0)
    assert min(losses.received for losses in found.values()) > 20


def test_two_daemons_that_look_again_and_again_change_nothing(site: Site) -> None:
    both = (site.first[0], site.second[0])
    for one in (*site.first, *site.second):
        eventually(f"{one.name} knows the other", lambda one=one: settled(one))  # type: ignore[misc]
    with NetlinkListener(both[0].namespace) as listener:
        eventually("a moment without news", lambda: listener.events(within_s=2.5) == [])
        before = [(one.log.read_text(), kept_rules(one)) for one in both]
        began = [looks(one) for one in both]
        assert listener.events(within_s=RESYNCS * RESYNC_S) == []
        assert [(one.log.read_text(), kept_rules(one)) for one in both] == before
        assert all(looks(one) >= start + RESYNCS for one, start in zip(both, began, strict=True))


@ONCE
def test_only_network_0_configures_docker(site: Site) -> None:
    first, second = site.first[0], site.second[0]
    assert (first.run_dir / "docker.env").exists()
    assert not (second.run_dir / "docker.env").exists()
    assert second.status()["docker_problems"] == []
    assert (first.status()["network_number"], second.status()["network_number"]) == (0, 1)
    assert "1 of this host" in second.call("status").stdout
    settle = second.call("docker", "settle")
    assert settle.returncode == 2
    assert "docker's default bridge belongs to network 0" in settle.stderr


def test_doctor_reports_only_on_its_own_network(site: Site) -> None:
    for one in (site.first[0], site.second[0]):
        document = json.loads(one.call("doctor", "--json", "--no-arp").stdout)
        found = {finding["name"]: finding for finding in document["findings"]}
        judged = (
            "reachability",
            "network-bounds",
            "docker-raw",
            "forward-",
            "backend-port",
            "lease",
            "network-config",
            "overlay-device",
        )
        assert {name: said for name, said in found.items() if name.startswith(judged) and said["state"] != "ok"} == {}
        assert ("docker-bridge" in found) == (one is site.first[0])
        assert str(one.subnet) in found["lease"]["found"]


def test_each_network_sends_echoes_from_its_own_containers(site: Site) -> None:
    for a, _b in (site.first, site.second):
        said = f"container {a.container_address}"
        eventually("it asks from there", lambda a=a, said=said: a.status().get("probed_from") == said)  # type: ignore[misc]
        ping = a.call("ping", "--no-mtu", "--json")
        assert ping.returncode == 0, ping.stdout
        assert json.loads(ping.stdout)["measured_from"] == said
        assert a.status()["unreached"] == []
        check = a.call("check")
        assert (check.returncode, "warning: the network" in check.stdout) == (0, False)


@ONCE
def test_a_second_daemon_of_one_number_is_refused_by_name(site: Site, tmp_path: Path) -> None:
    another = SecondNetworkHost(site.lab, site.first[0], tmp_path, etcd_prefix="/third/network")
    done = another.call("run")
    assert done.returncode == 5
    assert "for network 1" in done.stderr
    assert "overlayd@1" in done.stderr


@ONCE
@pytest.mark.parametrize(
    ("network", "backend", "said"),
    [
        ("10.7.0.0/16", {"Type": "vxlan"}, "udp port 8472 is network 0's of this host"),
        ("10.6.128.0/17", {"Type": "vxlan", "Port": 8474}, "overlaps 10.6.0.0/16, network 1 of this host"),
        (None, {}, f"etcd-prefix {PREFIX} is that of network 1 of this host"),
    ],
    ids=["port", "network", "prefix"],
)
def test_what_two_networks_cannot_share_is_refused_and_named(
    site: Site, tmp_path: Path, network: str | None, backend: dict[str, Any], said: str
) -> None:
    prefix = f"/third/{network}" if network else PREFIX
    third = SecondNetworkHost(site.lab, site.first[0], tmp_path, number=2, etcd_prefix=prefix)
    if network:
        configure(site.lab, backend, network=network, prefix=prefix)
    before = kept_rules(third)
    try:
        third.start(ready=False)
        eventually("it says so", lambda: said in (third.status().get("problem") or ""))
        assert third.status()["state"] == "waiting"
        assert kept_rules(third) == before
        assert "overlay2" not in third.run("ip", "link")
        checked = third.call("check")
        assert checked.returncode != 0
        assert said in checked.stderr
    finally:
        third.stop()
        third.remove()


@ONCE
def test_a_folder_of_another_network_is_refused(site: Site, tmp_path: Path) -> None:
    done = SecondNetworkHost(site.lab, site.first[0], tmp_path, number=2, run_dir=site.second[0].run_dir).call("run")
    assert done.returncode == 2
    assert f"run-dir {site.second[0].run_dir} is that of network 1" in done.stderr

"""A network config or a lease in etcd cuts no host off from its own routes, etcd, gateways or neighbours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

PREFIX = "/coreos.com/network"
# Behind the lab's switch, which is the hosts' default gateway.
FAR_ETCD = "198.19.7.5"


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab with one host, whose backend is the test's parameter."""
    kind = getattr(request, "param", "vxlan")
    with laboratory(tmp_path_factory.mktemp("bounds"), {"Type": kind}) as lab:
        lab.host("a")
        yield lab


def table(host: Host) -> str:
    """The routing tables of both IP versions, without our routes."""
    lines = [line for family in ("-4", "-6") for line in host.run("ip", family, "route").splitlines()]
    kept = [line.strip() for line in lines if "proto 157" not in line and "dev overlay" not in line]
    return "\n".join(sorted(line for line in kept if "fe80::/64" not in line))


def write(lab: Lab, key: str, value: object) -> None:
    """Write a key into etcd without any check, as an attacker does."""
    lab.etcdctl("put", f"{PREFIX}/{key}", json.dumps(value))


def vxlan(address: str, mac: str) -> dict[str, Any]:
    """The value of a lease's key."""
    return {"PublicIP": address, "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": mac}}


def problem_of(host: Host, words: str) -> Callable[[], bool]:
    return lambda: words in (host.status().get("problem") or "")


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"Network": "0.0.0.0/0", "Backend": {"Type": "udp"}}, "Network 0.0.0.0/0 holds 0.0.0.0/8"),
    ({"Network": "198.18.1.0/24", "Backend": {"Type": "host-gw"}}, "is a part of eth0's network 198.18.1.0/24"),
    ({"Network": "198.18.1.128/25", "Backend": {"Type": "vxlan"}}, "is a part of eth0's network 198.18.1.0/24"),
    ({"Network": "198.19.0.0/21", "Backend": {"Type": "udp"}}, f"holds etcd's address {FAR_ETCD}"),
    ({"Network": "10.6.0.0/16", "Backend": {"Type": "udp"}}, "10.6.0.0/16 via 198.18.1.254 dev eth0"),
]


@pytest.mark.parametrize("lab", ["vxlan", "host-gw", "udp"], indirect=True)
def test_a_hostile_network_config_changes_nothing_and_the_good_one_is_served_on(lab: Lab) -> None:
    (a,) = lab.hosts
    a.stop()
    # A route of the administrator's, and a second etcd behind the router, which only the settings name.
    a.run("ip", "route", "add", "10.6.0.0/16", "via", "198.18.1.254")
    a.settings["etcd-endpoints"] = f"http://198.18.1.254:2379,http://{FAR_ETCD}:2379"
    a.start()
    subnet, before, served = a.subnet, table(a), a.run("ip", "route", "show", "proto", "157")
    good = lab.etcdctl("get", "--print-value-only", f"{PREFIX}/config")
    for config, words in HOSTILE:
        write(lab, "config", config)
        eventually(f"{config} is refused by name", problem_of(a, words))
        assert table(a) == before
        lab.etcdctl("put", f"{PREFIX}/config", good)
        eventually("the good one is back", lambda: a.status()["state"] == "ready" and not a.status()["problem"])
        assert (a.subnet, table(a)) == (subnet, before)
    assert a.run("ip", "route", "show", "proto", "157") == served
    a.stop()
    a.cleanup()
    assert table(a) == before


def config_set(host: Host, network: str, *flags: str, kind: str = "vxlan") -> tuple[int, str]:
    done = host.call("config", "set", json.dumps({"Network": network, "Backend": {"Type": kind}}), *flags)
    return done.returncode, done.stderr


def test_config_set_refuses_by_name_what_hosts_need(lab: Lab) -> None:
    """The network contains the underlay: an etcd behind the router and a peer's public address are inside."""
    (a,) = lab.hosts
    a.settings["etcd-endpoints"] = f"http://198.18.1.254:2379,http://{FAR_ETCD}:2379"
    before = lab.etcdctl("get", "--print-value-only", f"{PREFIX}/config")
    status, said = config_set(a, "198.19.0.0/21")
    assert (status, f"the network 198.19.0.0/21 holds etcd's address {FAR_ETCD}" in said) == (2, True), said
    assert "--force" in said
    status, said = config_set(a, "198.18.0.0/15")
    assert status == 2
    for words in (
        "etcd's address 198.18.1.254",
        "the default gateway 198.18.1.254",
        f"this host's own address {a.address}",
        "eth0's network 198.18.1.0/24",
    ):
        assert words in said
    assert config_set(a, "0.0.0.0/0")[0] == 2
    assert lab.etcdctl("get", "--print-value-only", f"{PREFIX}/config") == before
    # A network in loopback is refused, even with --force.
    assert config_set(a, "127.0.0.0/8", "--force")[0] == 2
    assert config_set(a, "198.19.0.0/21", "--force") == (0, "")


def test_a_network_over_the_underlay_is_served_without_what_hosts_need(lab: Lab) -> None:
    (a,) = lab.hosts
    a.settings["etcd-endpoints"] = f"http://198.18.1.254:2379,http://{FAR_ETCD}:2379"
    a.stop()
    assert config_set(a, "198.19.0.0/21", "--force")[0] == 0
    a.start()
    before = table(a)
    assert f"holds etcd's address {FAR_ETCD}" in a.call("check").stdout
    assert "network-bounds" in a.call("doctor").stdout
    free = next(f"198.19.{n}.0" for n in range(1, 7) if f"198.19.{n}.0/24" != str(a.subnet))
    write(lab, "subnets/198.19.7.0-24", vxlan("198.18.1.77", "02:11:22:33:44:55"))
    write(lab, f"subnets/{free}-24", vxlan("198.18.1.78", "02:11:22:33:44:66"))

    def problems() -> dict[str, str | None]:
        return {peer["subnet"]: peer["problem"] for peer in a.status()["peers"]}

    eventually("both are known", lambda: len(problems()) == 2)
    assert "holds etcd's address 198.19.7.5" in (problems()["198.19.7.0/24"] or "")
    assert problems()[f"{free}/24"] is None
    assert table(a) == before
    assert "via 198.18.1.254 dev eth0" in a.run("ip", "route", "get", FAR_ETCD)
    done = a.call("lease", "reserve", "198.19.7.0/24", "--host=198.18.1.99")
    assert (done.returncode, "holds etcd's address" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("lab", ["vxlan", "host-gw"], indirect=True)
@pytest.mark.parametrize("nftables", [False, True], ids=["iptables", "nftables"])
def test_a_network_over_the_underlay_takes_no_host_from_its_neighbours(lab: Lab, nftables: bool) -> None:
    """As 10.0.0.0/8 over hosts in 10.1.2.0/24: peers and others on the segment still reach hosts."""
    (a,) = lab.hosts
    kind = a.status()["backend"]
    lab.remove_host(a)
    config = {"Network": "198.18.0.0/15", "EnableNFTables": nftables, "Backend": {"Type": kind}}
    write(lab, "config", config)
    b, c, stranger = lab.host("b"), lab.host("c"), lab.host("s", start=False)
    eventually("containers reach each other", lambda: pings(b, c) and pings(c, b))
    assert not b.call("status").stderr
    assert reaches(stranger, str(b.address))
    assert reaches(b, str(stranger.address))
    stranger.run("ip", "route", "add", str(b.subnet), "via", str(b.address))
    stranger.run("ip", "route", "add", str(c.subnet), "via", str(b.address))
    assert not reaches(stranger, str(b.container_address))
    assert not reaches(stranger, str(c.container_address))
    # A Docker network inside it.
    user = namespaces.unique("user")
    namespaces.make(user)
    try:
        namespaces.ip(
            b.namespace,
            "link add br-0123456789ab type bridge",
            "address add 198.19.250.1/24 dev br-0123456789ab",
            f"link add vethu type veth peer name eth0 netns {user}",
            "link set vethu master br-0123456789ab up",
            "link set br-0123456789ab up",
        )
        b.run(*["iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "198.19.250.0/24", "-j", "MASQUERADE"])
        namespaces.ip(
            user,
            "address add 198.19.250.2/24 dev eth0",
            "link set eth0 up",
            "route add default via 198.19.250.1",
        )
        ping = ["ip", "netns", "exec", user, "ping", "-c", "1", "-W", "1", str(stranger.address)]
        eventually("its containers reach others", lambda: subprocess.run(ping, check=False).returncode == 0)
    finally:
        namespaces.remove(user)


def reaches(host: Host, address: str) -> bool:
    """Whether it answers at least one of two echoes."""
    argv = [*host.enter, "ping", "-c", "2", "-i", "0.2", "-W", "1", address]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_a_subnet_with_what_this_host_needs_is_never_leased_and_one_that_is_held_is_given_up(lab: Lab) -> None:
    (a,) = lab.hosts
    subnet = a.subnet
    assert config_set(a, "10.5.0.0/22")[0] == 0  # three subnets: 1, 2 and 3
    eventually("it follows", lambda: a.status()["network"] == "10.5.0.0/22" and a.status()["state"] == "ready")
    held = a.subnet
    a.stop()
    others = [f"10.5.{number}.5" for number in range(1, 4) if f"10.5.{number}.0/24" != str(held)]
    # The subnet that it holds contains etcd's address, and so does one of the two others.
    a.settings["etcd-endpoints"] = f"http://198.18.1.254:2379,http://{held[5]}:2379,http://{others[0]}:2379"
    a.start()
    assert str(a.subnet) == others[1].removesuffix("5") + "0/24"
    assert subnet.prefixlen == 24


def test_a_lease_inside_a_peers_takes_none_of_its_traffic(lab: Lab) -> None:
    (a,) = lab.hosts
    b = lab.host("b")
    base = b.subnet.network_address
    way = f"{base + 2} via {base} dev overlay.1"
    eventually("b is programmed", lambda: way in a.run("ip", "route", "get", str(base + 2)))
    bad = (f"{base + 2}-32", f"{base}-30", f"{base}-25", f"{base - 256 * (int(base) >> 8 & 1)}-23")
    for name in bad:
        write(lab, f"subnets/{name}", vxlan("198.18.1.77", "02:11:22:33:44:55"))
    # With b's MAC, under a key that is listed before b's.
    write(lab, "subnets/10.5.0.0-24", vxlan("198.18.1.77", mac(b)))

    def problems() -> list[str]:
        return [peer["problem"] for peer in a.status()["peers"] if peer["problem"]]

    eventually("all are told", lambda: len(problems()) == len(bad) + 1)
    assert way in a.run("ip", "route", "get", str(base + 2))
    assert "198.18.1.77" not in a.run("bridge", "fdb", "show", "dev", "overlay.1")
    assert any("VtepMAC" in problem for problem in problems()), problems()


def mac(host: Host) -> str:
    return host.run("cat", "/sys/class/net/overlay.1/address").strip()


def test_addresses_that_a_host_needs_are_found(tmp_path: Path) -> None:
    """Gateways of both IP versions and of multipath routes, on-link networks, own addresses; no docker0, no overlay."""
    from overlayd.underlay import host_needs  # noqa: PLC0415  (in the namespace)

    name = namespaces.unique("needed")
    namespaces.make(name)
    try:
        namespaces.ip(
            name,
            "link add eth0 type veth peer name other",
            "link set eth0 up",
            "link set other up",
            "address add 198.18.1.1/24 dev eth0",
            "address add 2001:db8:1::1/64 dev eth0 nodad",
            "route add default nexthop via 198.18.1.253 nexthop via 198.18.1.254",
            "route add default via 2001:db8:1::fe",
            *(f"link add {one} type bridge" for one in ("docker0", "br-7", "overlay.1", "flannel.1")),
            *(
                f"address add 10.{number}.0.1/24 dev {one}"
                for number, one in enumerate(("docker0", "br-7", "overlay.1", "flannel.1"))
            ),
        )
        found = namespaces.inside(
            name, lambda: host_needs.HostNeedsReader(["http://198.19.7.5:2379", "localhost:2379"]).now()
        )
    finally:
        namespaces.remove(name)
    said = {str(one) for one in found if "resolver" not in one.what}
    assert said == {
        "etcd's address 198.19.7.5",
        *(f"the default gateway {one}" for one in ("198.18.1.253", "198.18.1.254", "2001:db8:1::fe")),
        *(f"this host's own address {one}" for one in ("198.18.1.1", "2001:db8:1::1", "10.1.0.1")),
        *("eth0's network 198.18.1.0/24", "eth0's network 2001:db8:1::/64", "br-7's network 10.1.0.0/24"),
    }

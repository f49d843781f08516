"""On hosts with a real firewalld and its stock rules, containers reach each other and strangers do not reach them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_confined import CONFINED, UNIT
from tests.testbed.netns import namespaces
from tests.testbed.netns.firewalld import Firewalld, Mailbox, new_flows, programs_missing
from tests.testbed.netns.lab import UNDERLAY, Host, Lab, laboratory
from tests.testbed.netns.traffic import pings, pings6
from tests.testbed.polling import eventually

# So long that no test passes because of the timer.
RESYNC_S = 600
STRANGER = UNDERLAY[200]
SPOOFED, ENCAPSULATED = "10.5.255.2", "10.5.254.2"
# Allowance for a busy machine; the figure itself is recorded.
BACK_WITHIN_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A backend, and whether docker0 is in Docker's zone of firewalld."""

    backend: dict[str, Any]
    docker_zone: bool
    dual: bool = False


CASES = {
    "vxlan": Case(backend={"Type": "vxlan"}, docker_zone=False),
    "vxlan-dual": Case(backend={"Type": "vxlan"}, docker_zone=True, dual=True),
    "host-gw": Case(backend={"Type": "host-gw"}, docker_zone=True),
    "udp": Case(backend={"Type": "udp"}, docker_zone=False),
    "wireguard": Case(backend={"Type": "wireguard"}, docker_zone=True),
}


class Site:
    """A lab with hosts a and b, each with its firewalld."""

    def __init__(self, lab: Lab, case: Case) -> None:
        self.lab, self.case = lab, case
        self.a, self.b = (lab.host(name, start=False, settings={"resync-s": RESYNC_S}) for name in "ab")
        self.hosts = (self.a, self.b)
        for host in self.hosts:
            # The daemon is confined as by its unit, since that must not keep it from D-Bus.
            host.launcher = (sys.executable, str(CONFINED), str(UNIT), str(host.run_dir), str(host.state_dir), "--")
        self.firewalls = {host: Firewalld(host, docker_zone=case.docker_zone) for host in self.hosts}

    def make(self) -> None:
        for host in self.hosts:
            self.firewalls[host].start()
            host.start()
            host.start_container()

    def reach(self, ping: Callable[[Host, Host], bool] = pings) -> bool:
        """Whether containers reach each other, in both directions."""
        return ping(self.a, self.b) and ping(self.b, self.a)

    def none_reaches(self, ping: Callable[[Host, Host], bool] = pings) -> bool:
        return not ping(self.a, self.b) and not ping(self.b, self.a)


@contextmanager
def made(folder: Path, case: Case) -> Iterator[Site]:
    assert not programs_missing(), f"the tests need {programs_missing()}: run `make system`"
    with laboratory(folder, case.backend, dual=case.dual) as lab:
        site = Site(lab, case)
        try:
            site.make()
            yield site
        finally:
            for firewall in site.firewalls.values():
                firewall.remove()


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in ("vxlan", "udp") else ()) for name in CASES],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with made(tmp_path_factory.mktemp(request.param), CASES[request.param]) as site:
        yield site


# These tests do not depend on the backend, so they use one.
once = pytest.mark.parametrize("site", ["vxlan-dual"], indirect=True)


@pytest.fixture
def lab(site: Site) -> Lab:
    """The state that the report of a failed test shows."""
    return site.lab


def test_containers_reach_each_other(site: Site, lab: Lab) -> None:
    eventually("over IPv4", site.reach)
    if site.case.dual:
        eventually("over IPv6", lambda: site.reach(pings6))
    assert all(host.status()["problems"] == [] for host in site.hosts)


def test_containers_do_not_reach_each_other_without_our_policies(site: Site, lab: Lab) -> None:
    eventually("reachable", site.reach)
    try:
        for host in site.hosts:
            host.stop()
            host.cleanup()
            host.start("--firewall=none")
        for ping in (pings, pings6) if site.case.dual else (pings,):
            assert site.none_reaches(ping)
        # Only firewalld blocks the packets: without it they pass.
        for host in site.hosts:
            site.firewalls[host].stop()
        eventually("reachable where no firewalld runs", site.reach)
    finally:
        for host in site.hosts:
            host.stop()
            host.start()
            # This time firewalld starts after overlayd.
            site.firewalls[host].stop()
            site.firewalls[host].start()
    eventually("reachable again", site.reach)


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_what_firewalld_forgets_at_a_reload_is_back_at_once(
    site: Site, lab: Lab, how: str, record_property: Callable[[str, object], None]
) -> None:
    forgets(site, how, record_property)


@once
def test_our_policies_are_back_after_a_complete_reload(
    site: Site, lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    forgets(site, "complete-reload", record_property)


@once
def test_a_quiet_look_writes_nothing(site: Site, lab: Lab) -> None:
    eventually("reachable", site.reach)
    host, told, written = site.b, "runtime configuration written", "firewall rules written"
    before, looks = host.log.read_text().count(told), host.log.read_text().count(written)
    # The daemon repairs this when it looks at its whole state.
    host.run("iptables", "-t", "raw", "-F", "OVERLAYD-PREROUTING")
    eventually("a look", lambda: host.log.read_text().count(written) > looks)
    eventually("reachable", site.reach)
    assert host.status()["problems"] == []
    assert host.log.read_text().count(told) == before


def test_a_stranger_beside_firewalld_reaches_no_container(site: Site, lab: Lab) -> None:
    eventually("reachable", site.reach)
    sources = {"own address": str(STRANGER), "address of the network": SPOOFED, "encapsulated": ENCAPSULATED}
    if site.case.backend["Type"] == "host-gw":
        # With plain routes a neighbour that sends with the address of a peer's container cannot be recognised.
        del sources["address of the network"]
    if site.case.backend["Type"] != "vxlan":
        del sources["encapsulated"]
    mailbox = Mailbox(site.b)
    try:
        with stranger(site) as namespace:
            for text, source in sources.items():
                mailbox.send(namespace, text, source=source)
            # The packets that were sent earlier would have arrived earlier.
            assert eventually("a peer gets in", lambda: sends(mailbox, PEER, site.a.container)) == {"peer"}
            site.firewalls[site.b].stop()
            # firewalld removed all rules as it stopped; the daemon restores ours.
            eventually("our rules", lambda: "-j OVERLAYD-PREROUTING" in site.b.run("iptables-save", "-t", "mangle"))
            mailbox.got()
            # Our rules keep strangers out without firewalld too; test_strangers.py shows who gets in without our rules.
            eventually("a peer still gets in", lambda: sends(mailbox, PEER, site.a.container) == {"peer"})
            for text, source in sources.items():
                mailbox.send(namespace, text, source=source)
            assert eventually("a peer, and nobody before it", lambda: sends(mailbox, PEER, site.a.container)) == {
                "peer"
            }
    finally:
        mailbox.close()
        site.firewalls[site.b].stop()
        site.firewalls[site.b].start()
    eventually("reachable again", site.reach)


@once
def test_cleanup_leaves_firewalld_as_it_was(site: Site, lab: Lab) -> None:
    eventually("reachable", site.reach)
    host, firewall = site.b, site.firewalls[site.b]
    host.run("ip", "link", "add", "admin0", "type", "bridge")
    try:
        # A rule that the administrator added at runtime.
        firewall.cmd("--zone=internal", "--change-interface=admin0")
        firewall.cmd("--zone=public", "--add-port=8080/tcp")
        firewall.cmd("--zone=public", "--add-rich-rule=rule family=ipv4 source address=198.18.1.77 accept")
        kept = firewall.cmd("--list-all-zones")
        host.stop()
        assert "firewalld's rules" in host.cleanup()
        before = firewall.state()
        host.start()
        eventually("reachable", site.reach)
        assert firewall.state() != before
        assert firewall.cmd("--list-all-zones") == kept
        host.stop()
        host.cleanup()
        assert sorted(firewall.state()) == sorted(before)
        assert "firewalld" not in host.cleanup()
    finally:
        host.run("ip", "link", "delete", "admin0")
        host.start()
    eventually("reachable again", site.reach)


@once
def test_a_host_that_leaves_is_no_longer_let_in(site: Site, lab: Lab) -> None:
    eventually("reachable", site.reach)
    name = "overlayd-peers"
    entries = {host: site.firewalls[host].cmd(f"--ipset={name}", "--get-entries").split() for host in site.hosts}
    assert entries == {site.a: [str(site.b.address)], site.b: [str(site.a.address)]}
    third = lab.host("c")
    try:
        eventually("it is let in", lambda: str(third.address) in entries_of(site, name))
        third.stop()
        lab.etcdctl("del", "--prefix", f"/coreos.com/network/subnets/{third.subnet.network_address}")
        eventually("it is let in no more", lambda: entries_of(site, name) == entries[site.b])
    finally:
        lab.remove_host(third)


@once
def test_a_rule_that_an_administrator_removes_from_our_policy_is_back(site: Site, lab: Lab) -> None:
    eventually("reachable", site.reach)
    firewall = site.firewalls[site.b]
    before = firewall.cmd("--list-all-policies")
    rule = firewall.cmd("--policy=overlayd-forward", "--list-rich-rules").splitlines()[0]
    firewall.cmd("--policy=overlayd-forward", f"--remove-rich-rule={rule}")
    eventually("it is back", lambda: sorted(firewall.cmd("--list-all-policies")) == sorted(before))


@pytest.mark.parametrize("settings", [{}, {"firewall": "none"}], ids=["files missing", "told to keep out"])
def test_a_host_is_ready_though_firewalld_lacks_our_policies_or_is_not_told(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    with laboratory(tmp_path, {"Type": "vxlan"}) as lab:
        host = lab.host("a", start=False, settings={"resync-s": RESYNC_S, **settings})
        firewall = Firewalld(host, docker_zone=True, shipped=bool(settings))
        try:
            firewall.start()
            before = firewall.state()
            host.start()
            if settings:
                assert host.status()["problems"] == []
            else:
                (said,) = host.status()["problems"]
                assert "does not know overlayd-peers" in said
                assert "firewall-cmd --reload" in said
                firewall.ship()
                firewall.cmd("--reload")
                eventually("told after that reload", lambda: host.status()["problems"] == [])
                host.stop()
                host.cleanup()
                firewall.unship()
                firewall.cmd("--reload")
            assert sorted(firewall.state()) == sorted(before)
        finally:
            firewall.remove()


def forgets(site: Site, how: str, record_property: Callable[[str, object], None]) -> None:
    """Make b's firewalld forget its runtime configuration while new flows arrive; record how soon they are answered."""
    eventually("reachable", site.reach)
    firewall = site.firewalls[site.b]
    with new_flows(site.a, site.b) as flows:
        began = time.monotonic()
        eventually("flows", lambda: flows.answered_since(began))
        if how == "restart":
            firewall.stop()
            firewall.start()
        else:
            firewall.cmd(f"--{how}")
        over = time.monotonic()
        eventually("new flows are answered", lambda: flows.answered_since(over + 1))
    record_property("back_after_s", round(flows.back_at() - over, 3))
    record_property("longest_gap_s", round(flows.longest_gap_s(), 3))
    assert flows.back_at() - over < BACK_WITHIN_S
    if site.case.dual:
        eventually("over IPv6", lambda: site.reach(pings6))


def entries_of(site: Site, ipset: str) -> list[str]:
    return site.firewalls[site.b].cmd(f"--ipset={ipset}", "--get-entries").split()


PEER = {"peer": "0.0.0.0"}


def sends(mailbox: Mailbox, sources: dict[str, str], namespace: str) -> set[str]:
    """What b's containers received since the last call, after sending these texts, each from its address."""
    for text, source in sources.items():
        mailbox.send(namespace, text, source=source)
    return mailbox.got()


@contextmanager
def stranger(site: Site) -> Iterator[str]:
    """A namespace on the underlay without a lease, with the routes and devices that it needs to attack b."""
    name, b = namespaces.unique("stranger"), site.b
    namespaces.make(name)
    try:
        namespaces.ip(
            site.lab.switch,
            f"link add stranger type veth peer name eth0 netns {name}",
            "link set stranger master br0 up",
        )
        namespaces.ip(
            name,
            f"address add {STRANGER}/24 dev eth0",
            "link set eth0 up",
            f"address add {SPOOFED}/32 dev lo",
            f"route add {b.subnet} via {b.address}",
        )
        if site.case.backend["Type"] == "vxlan":
            mac = b.run("cat", "/sys/class/net/overlay.1/address").strip()
            gateway = b.subnet.network_address
            namespaces.ip(
                name,
                f"link add overlay.1 type vxlan id 1 dstport 8472 local {STRANGER} dev eth0 nolearning",
                f"address add {ENCAPSULATED}/32 dev overlay.1",
                "link set overlay.1 up",
                f"neighbour add {gateway} lladdr {mac} dev overlay.1 nud permanent",
                f"route add {b.subnet} via {gateway} dev overlay.1 onlink table 7",
                f"rule add from {ENCAPSULATED} lookup 7",
            )
            namespaces.run(name, ["bridge", "fdb", "add", mac, "dev", "overlay.1", "dst", str(b.address)])
        yield name
    finally:
        namespaces.ip(site.lab.switch, "link delete stranger")
        namespaces.remove(name)

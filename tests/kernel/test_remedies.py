"""Each remedy that doctor prints is run word for word; then packets flow and doctor finds nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.kernel.test_doctor import doctor, run_remedy
from tests.testbed.netns import docker_releases, namespaces
from tests.testbed.netns.firewalld import Firewalld
from tests.testbed.netns.lab import SWITCH_ADDRESS, Host, Lab, laboratory
from tests.testbed.netns.traffic import pings, pings6, reaches
from tests.testbed.polling import eventually

# Added to the name of a host's namespace.
NEIGHBOUR = "n"


@dataclass(frozen=True, kw_only=True)
class Break:
    """How to break a host, and which check finds it. `version`: the IP version whose packets are stopped. `large`: only
    packets of full size.

    `undo` removes what the remedy leaves, beside iptables rules. `words` are in the finding; `also`: further findings
    of the same fault. `inside`: packets between containers of one host are stopped.
    """

    finding: str
    how: str
    undo: str = ""
    version: int = 4
    words: str = ""
    also: tuple[str, ...] = ()
    large: bool = False
    inside: bool = False
    slow: bool = False


def foreign(hook: str, rule: str, *, policy: str = "accept", priority: int = 0) -> str:
    """Commands that make a chain in a table of an administrator."""
    base = f"type filter hook {hook} priority {priority}; policy {policy};"
    return f"nft 'table inet mine {{ chain my-{hook} {{ {base} {rule}; }}; }}'"


NOT_MINE = "nft delete table inet mine"
# {0}: the program. The chain for such accept rules comes after the drop.
DOCKERS_LAST = "-N DOCKER-USER; {0} -I FORWARD -j DOCKER-USER; {0} -I FORWARD -i overlay+ -o docker0 -j DROP"
BREAKS: dict[str, Break] = {
    "sysctl": Break(finding="ip-forward", how="sysctl -qw net.ipv4.ip_forward=0"),
    "sysctl of a device": Break(slow=True, finding="ip-forward", how="sysctl -qw net/ipv4/conf/overlay.1/forwarding=0"),
    "sysctl ipv6": Break(slow=True, finding="ipv6-forward", how="sysctl -qw net.ipv6.conf.all.forwarding=0", version=6),
    "underlay's MTU": Break(finding="underlay-mtu", how="ip link set dev eth0 mtu 1400", large=True),
    "bridge's MTU": Break(slow=True, finding="container-mtu", how="ip link set dev docker0 mtu 1300", large=True),
    "device's MTU": Break(slow=True, finding="overlay-device", how="ip link set dev overlay.1 mtu 1300", large=True),
    "bridge down": Break(
        finding="docker-bridge",
        how="ip link set dev docker0 down",
    ),
    "underlay down": Break(
        finding="underlay",
        how="ip link set dev eth0 down",
        undo="ip address replace {own6}/64 dev eth0 nodad; ip route replace default via 198.18.1.254",
        slow=True,
    ),
    "way back": Break(
        finding="rp-filter",
        how="sysctl -qw net/ipv4/conf/eth0/rp_filter=1; ip route add {peer}/32 dev eth1",
        undo="sysctl -qw net/ipv4/conf/eth0/rp_filter=0; ip route delete {peer}/32",
    ),
    "raw": Break(finding="docker-raw", how="iptables -t raw -I PREROUTING -d {container} ! -i docker0 -j DROP"),
    "raw of ip6tables": Break(
        slow=True,
        finding="docker-raw",
        how="ip6tables -t raw -I PREROUTING -d {container6} ! -i docker0 -j DROP",
        version=6,
        words="ip6tables: raw",
    ),
    "mangle": Break(
        slow=True, finding="docker-raw", how="iptables -t mangle -I PREROUTING -i overlay+ -s 10.5.0.0/16 -j DROP"
    ),
    "raw of nft": Break(
        finding="docker-raw",
        how=foreign("prerouting", 'ip daddr {container} iifname != "docker0" drop', priority=-300),
        undo=NOT_MINE,
        words="nft: inet mine my-prerouting",
    ),
    "FORWARD before DOCKER-USER": Break(finding="forward-in", how=f"iptables {DOCKERS_LAST.format('iptables')}"),
    "FORWARD of ip6tables": Break(
        slow=True,
        finding="forward-in",
        how=f"ip6tables {DOCKERS_LAST.format('ip6tables')}",
        version=6,
        words="ip6tables: filter",
    ),
    "DOCKER-USER": Break(
        slow=True,
        finding="forward-in",
        how="iptables -N DOCKER-USER; iptables -I FORWARD -j DOCKER-USER; iptables -A DOCKER-USER -i overlay+ -j DROP",
    ),
    "FORWARD of the other kind": Break(
        finding="forward-in",
        how="iptables-legacy -P FORWARD DROP",
        undo="iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F FORWARD",
        also=("forward-out",),
        words="iptables-legacy: policy DROP of filter FORWARD",
    ),
    "FORWARD of the other kind, ipv6": Break(
        slow=True,
        finding="forward-in",
        how="ip6tables-legacy -A FORWARD -o docker0 -j REJECT",
        undo="ip6tables-legacy -F FORWARD",
        version=6,
        words="ip6tables-legacy: filter -A FORWARD -o docker0",
    ),
    "POSTROUTING": Break(slow=True, finding="forward-in", how="iptables -t mangle -A POSTROUTING -o docker0 -j DROP"),
    "policy of nft": Break(
        slow=True,
        finding="forward-in",
        how=foreign("forward", 'iifname "docker0" accept; ct state established,related accept', policy="drop"),
        undo=NOT_MINE,
        words="policy drop of inet mine my-forward",
    ),
    "map of nft, ipv6": Break(
        slow=True,
        finding="forward-in",
        how="nft 'table inet mine { chain into { ip6 saddr fd00::/8 reject; }; "
        'map ways { type ifname : verdict; elements = { "docker0" : goto into }; }; '
        "chain my-forward { type filter hook forward priority 5; oifname vmap @ways; }; }'",
        undo=NOT_MINE,
        version=6,
        words="nft: inet mine into: ip6 saddr fd00::/8 reject",
    ),
    "way out": Break(finding="forward-out", how="iptables -I FORWARD -i docker0 -o overlay.1 -j REJECT"),
    "way out, ipv6": Break(
        slow=True, finding="forward-out", how="ip6tables -t mangle -I POSTROUTING -o overlay-v6.1 -j DROP", version=6
    ),
    "way out by nft": Break(
        slow=True,
        finding="forward-out",
        how=foreign("postrouting", 'oifname "overlay.1" ip saddr 10.5.0.0/16 drop'),
        undo=NOT_MINE,
        words="nft: inet mine my-postrouting",
    ),
    "port": Break(finding="backend-port", how="iptables -I INPUT -p udp --dport 8472 -j DROP"),
    "port, ipv6": Break(
        slow=True, finding="backend-port", how="ip6tables -I INPUT -p udp --dport 8472 -j DROP", version=6
    ),
    "port of the other kind": Break(
        slow=True,
        finding="backend-port",
        how="iptables-legacy -A INPUT -i eth0 -p udp -j DROP",
        undo="iptables-legacy -F INPUT",
    ),
    "port of nft": Break(
        slow=True,
        finding="backend-port",
        how=foreign("input", "tcp dport 22 accept; udp dport { 4789, 8000-9000 } drop"),
        undo=NOT_MINE,
    ),
    "port on the way out": Break(
        slow=True, finding="backend-port", how="iptables -A OUTPUT -p udp --dport 8472 -j DROP"
    ),
    "port on the way out, by nft": Break(
        finding="backend-port",
        how=foreign("output", "ip6 daddr {peer6} meta l4proto { tcp, udp } drop"),
        undo=NOT_MINE,
        version=6,
    ),
    "bridge": Break(finding="bridge-netfilter", how="iptables -I FORWARD -i docker0 -o docker0 -j DROP", inside=True),
    "bridge, ipv6": Break(
        slow=True,
        finding="bridge-netfilter",
        how="ip6tables -I FORWARD -i docker0 -o docker0 -j DROP",
        version=6,
        inside=True,
    ),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Dual-stack hosts a and b; a's daemon does not run, as it would repair some of these faults itself."""
    with laboratory(tmp_path_factory.mktemp("remedies"), {"Type": "vxlan"}, dual=True) as lab:
        a, b = lab.host("a"), lab.host("b")
        # A second link to the switch, by which a may answer; it does not answer ARP requests for a's address.
        namespaces.ip(lab.switch, f"link add second type veth peer name eth1 netns {a.namespace}")
        namespaces.ip(lab.switch, "link set second master br0 up")
        a.run("sysctl", "-qw", "net/ipv4/conf/eth1/arp_ignore=1")
        namespaces.ip(a.namespace, "link set eth1 up")
        add_neighbour(a)
        for host in (a, b):
            host.run("ip", "link", "set", "vethc", "mtu", str(host.mtu_bytes))
        eventually("they reach each other", lambda: pings(b, a) and pings6(b, a))
        a.stop()
        try:
            yield lab
        finally:
            namespaces.remove(f"{a.namespace}{NEIGHBOUR}")


def add_neighbour(host: Host) -> None:
    """A second container on a host's bridge."""
    assert host.subnet6 is not None
    name = f"{host.namespace}{NEIGHBOUR}"
    namespaces.make(name)
    namespaces.ip(
        host.namespace,
        f"link add vethd mtu {host.mtu_bytes} type veth peer name eth0 netns {name}",
        "link set vethd master docker0 up",
    )
    namespaces.ip(
        name,
        f"link set eth0 mtu {host.mtu_bytes} up",
        f"address add {host.subnet[3]}/{host.subnet.prefixlen} dev eth0",
        f"address add {host.subnet6[3]}/{host.subnet6.prefixlen} dev eth0 nodad",
    )


@pytest.fixture
def broken(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Break]:
    """One fault; afterwards everything is as before."""
    a, b = lab.hosts
    broken = BREAKS[request.param]
    words = {
        "container": a.container_address,
        "container6": a.container_address6,
        "own6": a.address6,
        "peer": b.address,
        "peer6": b.address6,
    }

    def filled(text: str) -> str:
        for word, value in words.items():
            text = text.replace("{" + word + "}", str(value))
        return text

    saved = {command: a.run(f"{command}-save") for command in ("iptables", "ip6tables")}
    assert flows(lab, broken)
    a.run("sh", "-ec", filled(broken.how))
    try:
        yield broken
    finally:
        for command, text in saved.items():
            a.run(f"{command}-restore", input=text)
        if broken.undo:
            a.run("sh", "-ec", filled(broken.undo))


def flows(lab: Lab, broken: Break) -> bool:
    """Whether such packets arrive."""
    a, b = lab.hosts
    if broken.inside:
        return answered(f"{a.namespace}{NEIGHBOUR}", a, broken)
    # Packets that are too large in one direction may be fragmented in the other.
    return answered(b.container, a, broken) and (not broken.large or answered(a.container, b, broken))


def answered(source: str, target: Host, broken: Break) -> bool:
    # The kernel remembers a smaller path MTU for ten minutes.
    for end in (source, target.container) if broken.large else ():
        namespaces.run(end, ["ip", "route", "flush", "cache"])
    address: IPv4Address | IPv6Address = target.container_address if broken.version == 4 else target.container_address6
    size = ["-M", "do", "-s", str(target.mtu_bytes - 28)] if broken.large else []
    argv = ["ip", "netns", "exec", source, "ping", "-n", "-q", "-c", "1", "-W", "0.3", *size, str(address)]
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


CASES = [pytest.param(name, marks=[pytest.mark.slow] if one.slow else []) for name, one in BREAKS.items()]


@pytest.mark.parametrize("broken", CASES, indirect=True)
def test_a_remedy_mends(lab: Lab, broken: Break) -> None:
    a, _b = lab.hosts
    assert not flows(lab, broken)
    status, findings = doctor(a, "--no-arp")
    finding = findings[broken.finding]
    assert (finding["state"] != "ok", broken.words in finding["found"]) == (True, True), finding
    assert status == 1
    for name in (broken.finding, *broken.also):
        run_remedy(a, findings[name])
    eventually("packets flow", lambda: flows(lab, broken), timeout_s=10)
    _status, findings = doctor(a, "--no-arp")
    for name in (broken.finding, *broken.also):
        assert findings[name]["state"] == "ok", findings[name]


@pytest.mark.parametrize(
    "told", [{}, {"allow-direct-routing": "true", "bridge-accept-fwmark": "0x1/0x1"}], ids=["stock", "told"]
)
def test_docker_nftables_remedy_mends(lab: Lab, told: dict[str, str]) -> None:
    a, _b = lab.hosts
    (release,) = (one for one in docker_releases.RELEASES if one.name == "29-nftables")
    docker_releases.load(release, a.namespace, a.subnet, a.container_address, options=told)
    try:
        assert not flows(lab, Break(finding="forward-in", how=""))
        _status, findings = doctor(a, "--no-arp")
        wrong = {"forward-in", "docker-nftables", *([] if told else ["docker-raw"])}
        assert {name for name in wrong if findings[name]["state"] == "problem"} == wrong
        for name in wrong - {"docker-nftables"}:
            run_remedy(a, findings[name])
        eventually("packets flow", lambda: flows(lab, Break(finding="forward-in", how="")), timeout_s=10)
        _status, findings = doctor(a, "--no-arp")
        assert {findings[name]["state"] for name in wrong} == {"ok"}
    finally:
        a.run("nft", "delete table ip docker-bridges")


def test_masquerading_remedy_mends(lab: Lab) -> None:
    a, _b = lab.hosts
    saved = a.run("iptables-save", "-t", "nat")
    # The switch has no route to containers.
    assert reaches(a, SWITCH_ADDRESS)
    a.run("iptables", "-t", "nat", "-F", "POSTROUTING")
    a.settings["firewall"] = "none"
    try:
        assert not reaches(a, SWITCH_ADDRESS)
        _status, findings = doctor(a, "--no-arp")
        assert findings["masquerading"]["state"] == "problem"
        run_remedy(a, findings["masquerading"])
        assert reaches(a, SWITCH_ADDRESS)
        assert doctor(a, "--no-arp")[1]["masquerading"]["state"] == "ok"
    finally:
        del a.settings["firewall"]
        a.run("iptables-restore", input=saved)


@pytest.mark.slow
def test_firewalld_remedy_mends(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    a, _b = lab.hosts
    saved = {command: a.run(f"{command}-save") for command in ("iptables", "ip6tables")}
    running = Firewalld(a, docker_zone=False, shipped=False)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={a.bus}")
    try:
        running.start()
        for version in (4, 6):
            assert not flows(lab, Break(finding="firewalld", how="", version=version))
        _status, findings = doctor(a, "--no-arp")
        assert "inet firewalld" in findings["forward-in"]["found"]
        assert findings["firewalld"]["remedy"].startswith("firewall-cmd --permanent")
        assert findings["forward-in"]["remedy"] == findings["forward-out"]["remedy"] == findings["firewalld"]["remedy"]
        run_remedy(a, findings["firewalld"])
        # As it was reloaded, firewalld removed the rules of others that let packets pass.
        _status, findings = doctor(a, "--no-arp")
        for finding in [one for one in findings.values() if one["section"] == "firewall" and one["remedy"]]:
            run_remedy(a, finding)
        for version in (4, 6):
            broken = Break(finding="firewalld", how="", version=version)
            eventually("packets flow", lambda broken=broken: flows(lab, broken), timeout_s=10)  # type: ignore[misc]
        _status, findings = doctor(a, "--no-arp")
        names = ("firewalld", "docker-raw", "forward-in", "forward-out", "backend-port")
        assert {findings[name]["state"] for name in names} == {"ok"}, findings
    finally:
        running.remove()
        for command, text in saved.items():
            a.run(f"{command}-restore", input=text)

"""Each check by itself, over values: what it says, in which state, with which remedy."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from overlayd.doctor import checks
from overlayd.doctor.checks import SECTIONS, examine
from overlayd.doctor.checks.reach import NAME, reachability
from overlayd.doctor.facts import (
    ContainerFacts,
    EndpointFacts,
    Facts,
    FirewalldFacts,
    KernelFeature,
    PemFile,
    PublishedLease,
    ReturnRoute,
    Zone,
)
from overlayd.doctor.finding import Finding, State, document, lines, problems
from overlayd.lib.iptables_save import parse
from overlayd.ruleset.packet_path import IptablesRules
from tests.unit.doctor.docker_cases import CASES as DOCKER
from tests.unit.doctor.docker_cases import WAITS_FOR_ETCD
from tests.unit.doctor.values import MAC, NOW, OWN, PEER, RULES, WELL, base_chain, but, nft, rules, sysctl


def found(facts: Facts, name: str) -> Finding:
    (finding,) = (finding for _title, findings in examine(facts) for finding in findings if finding.name == name)
    return finding


def others_bad(facts: Facts, name: str) -> list[str]:
    return [
        finding.name
        for _title, findings in examine(facts)
        for finding in findings
        if finding.state in (State.PROBLEM, State.WARNING) and finding.name != name
    ]


def link(name: str, **changes: Any) -> Facts:
    changed = tuple(replace(one, **changes) if one.name == name else one for one in WELL.host.links)
    return but(host={"links": changed})


def without_link(name: str) -> Facts:
    return but(host={"links": tuple(one for one in WELL.host.links if one.name != name)})


def lease(index: int, **changes: Any) -> Facts:
    leases = list(WELL.etcd.leases or ())
    leases[index] = replace(leases[index], **changes)
    return but(etcd={"leases": tuple(leases)})


def certificate(**changes: Any) -> Facts:
    (file,) = WELL.etcd.files
    changed = replace(file, certificates=(replace(file.certificates[0], **changes),))
    return but(etcd={"files": (changed,)})


@pytest.mark.parametrize(
    ("containers", "said"),
    [
        (None, "not tried: run as root"),
        (ContainerFacts(), "not tried: none runs on docker0"),
        (ContainerFacts(tried=2), "2 containers here do not reach it"),
        (
            ContainerFacts(tried=2, reached=("process 7 (sh) to 198.18.0.2:2379",)),
            r"containers here reach it: process 7",
        ),
    ],
)
def test_an_open_etcd_is_a_warning(containers: ContainerFacts | None, said: str) -> None:
    finding = found(but(etcd={"open_to": "read and write", "containers": containers}), "etcd-access")
    assert finding.state is State.WARNING
    assert "anybody who reaches it may read and write" in finding.found
    assert said in finding.found
    assert found(but(etcd={"open_to": None}), "etcd-access").state is State.UNKNOWN


def test_a_healthy_host_is_all_ok() -> None:
    states = {finding.name: finding.state for _title, findings in examine(WELL) for finding in findings}
    assert set(states.values()) == {State.OK}, states
    assert len(states) == 36


ZONES = (
    Zone(name="public", target="default", interfaces=frozenset({"eth0"})),
    Zone(name="trusted", target="ACCEPT"),
    Zone(name="docker", target="ACCEPT", interfaces=frozenset({"docker0"})),
)
FIREWALLD = FirewalldFacts(default_zone="public", zones=ZONES)
VMXNET3 = {"driver": "vmxnet3", "offloads": frozenset({"tx-udp_tnl-segmentation", "tx-nocache-copy"})}
STRICT = {"net/ipv4/conf/all/rp_filter": "1"}

OTHERS = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 25 -j DROP\nCOMMIT\n"

# facts, the one finding that is not ok, its state, words of it, its remedy
CASES: list[tuple[Facts, str, State, str, str | None]] = [
    (but(firewall={"kind": "none"}), "strangers", State.WARNING, "firewall is none", None),
    (
        rules(RULES.partition("*mangle")[0]),
        *("strangers", State.WARNING, "reaches containers", None),
    ),
    (but(daemon={"running": False}), "daemon", State.PROBLEM, "no daemon", "systemctl start overlayd"),
    (
        but(daemon={"running": False, "unit": {"LoadState": "loaded", "UnitFileState": "disabled"}}),
        *("daemon", State.PROBLEM, "no daemon", "systemctl enable --now overlayd"),
    ),
    (
        but(daemon={"running": False, "unit": {"LoadState": "not-found"}}),
        *("daemon", State.PROBLEM, "no overlayd.service", "yum install overlayd"),
    ),
    (but(daemon={"state": "waiting", "problems": ("no etcd",)}), "daemon", State.PROBLEM, "no etcd", None),
    (
        sysctl(net__ipv4__ip_forward="0"),
        *("ip-forward", State.PROBLEM, "nothing is routed", "sysctl -w net.ipv4.ip_forward=1"),
    ),
    (
        but(host={"sysctls": {**WELL.host.sysctls, "net/ipv4/conf/overlay.1/forwarding": "0"}}),
        *("ip-forward", State.PROBLEM, "overlay.1", "sysctl -w net/ipv4/conf/overlay.1/forwarding=1"),
    ),
    (
        replace(link("eth0", mtu_bytes=1520), network=but(network={"ipv6": True}).network),
        *("ipv6-forward", State.PROBLEM, "IPv6", "sysctl -w net.ipv6.conf.all.forwarding=1"),
    ),
    (
        but(host={"features": {**WELL.host.features, "vxlan": KernelFeature(there=False, how="not there")}}),
        *("kernel-features", State.PROBLEM, "no vxlan", "modprobe vxlan"),
    ),
    (
        but(
            host={
                "features": {**WELL.host.features, "vxlan": KernelFeature(there=False, how="a module")},
                "sysctls": {**WELL.host.sysctls, "kernel/modules_disabled": "1"},
            }
        ),
        *("kernel-features", State.PROBLEM, "no module can be loaded", None),
    ),
    (
        but(host={"features": {**WELL.host.features, "iptables": KernelFeature(there=False, how="refused")}}),
        *("kernel-features", State.PROBLEM, "no iptables", "modprobe ip_tables"),
    ),
    (
        sysctl(net__netfilter__nf_conntrack_count="65000"),
        *("conntrack-table", State.PROBLEM, "dropped", "sysctl -w net.netfilter.nf_conntrack_max=131072"),
    ),
    (
        sysctl(net__netfilter__nf_conntrack_count="60000"),
        *("conntrack-table", State.WARNING, "almost", "sysctl -w net.netfilter.nf_conntrack_max=131072"),
    ),
    (
        but(network={"refusals": ("the network 10.5.0.0/16 is a part of eth1's network 10.0.0.0/8",)}),
        *("network-bounds", State.PROBLEM, "is a part of eth1's network", None),
    ),
    (
        but(network={"remarks": ("the network 10.5.0.0/16 holds etcd's address 10.5.9.1",)}),
        *("network-bounds", State.WARNING, "holds etcd's address", None),
    ),
    (
        but(host={"neighbours": 1024}),
        "neighbour-table",
        State.PROBLEM,
        "room for 1024",
        "sysctl -w net.ipv4.neigh.default.gc_thresh1=512 net.ipv4.neigh.default.gc_thresh2=1024 "
        "net.ipv4.neigh.default.gc_thresh3=2048",
    ),
    (
        but(host={"neighbour_overflows": 3}),
        "neighbour-table",
        State.WARNING,
        "3 overflows",
        "sysctl -w net.ipv4.neigh.default.gc_thresh1=256 net.ipv4.neigh.default.gc_thresh2=512 "
        "net.ipv4.neigh.default.gc_thresh3=1024",
    ),
    (
        but(daemon={"fast_path": "on", "without_program": ("veth1",)}),
        *("fast-path", State.WARNING, "no program of it at veth1", "systemctl restart overlayd"),
    ),
    (
        but(underlay={"problem": "no default route", "advice": "set iface"}),
        "underlay",
        State.PROBLEM,
        "no default route",
        None,
    ),
    (link("eth0", up=False), "underlay", State.PROBLEM, "down", "ip link set dev eth0 up"),
    (link("eth0", mtu_bytes=1400), "underlay-mtu", State.PROBLEM, "takes 1400", "ip link set dev eth0 mtu 1500"),
    (link("veth1", mtu_bytes=1500), "container-mtu", State.WARNING, "veth1", "docker restart $(docker ps -q)"),
    (link("docker0", mtu_bytes=1400), "container-mtu", State.WARNING, "1400", "ip link set dev docker0 mtu 1450"),
    (without_link("overlay.1"), "overlay-device", State.PROBLEM, "not there", "systemctl restart overlayd"),
    (link("overlay.1", up=False), "overlay-device", State.PROBLEM, "down", "systemctl restart overlayd"),
    (
        link("overlay.1", mtu_bytes=1500),
        *("overlay-device", State.PROBLEM, "MTU 1500", "ip link set dev overlay.1 mtu 1450"),
    ),
    (link("overlay.1", mac="02:00:00:00:00:01"), "overlay-device", State.PROBLEM, MAC, "systemctl restart overlayd"),
    (
        but(underlay={"managers": {"overlay.1": "NetworkManager"}}),
        *("interface-manager", State.WARNING, "NetworkManager", "nmcli device set overlay.1 managed no"),
    ),
    (
        but(underlay={"silent_managers": ("networkd",)}),
        "interface-manager",
        State.UNKNOWN,
        "networkd did not say",
        None,
    ),
    (
        but(
            host={"sysctls": {**WELL.host.sysctls, **STRICT}},
            underlay={"return_routes": (ReturnRoute(peer=PEER, underlay="eth1", overlay="overlay.1"),)},
        ),
        *("rp-filter", State.PROBLEM, "eth1", "sysctl -w net/ipv4/conf/eth0/rp_filter=2"),
    ),
    (
        but(
            host={"sysctls": {**WELL.host.sysctls, **STRICT}},
            underlay={"return_routes": (ReturnRoute(peer=PEER, underlay="eth0", overlay="eth0"),)},
        ),
        *("rp-filter", State.PROBLEM, "overlay.1", "sysctl -w net/ipv4/conf/overlay.1/rp_filter=2"),
    ),
    (
        but(underlay=VMXNET3),
        *("checksum-offload", State.WARNING, "vmxnet3", "ethtool -K eth0 tx-udp_tnl-segmentation off"),
    ),
    (but(underlay={"same_address": (MAC,)}), "duplicate-address", State.PROBLEM, MAC, None),
    (
        but(
            etcd={"endpoints": (EndpointFacts(name="a", problem="refused"), EndpointFacts(name="b", clock_offset_s=0))}
        ),
        *("etcd-endpoints", State.WARNING, "1 of 2", None),
    ),
    (
        but(etcd={"endpoints": (EndpointFacts(name="a", clock_offset_s=-90.0),)}),
        *("clock", State.WARNING, "behind", "chronyc makestep"),
    ),
    (certificate(not_after=NOW - timedelta(days=1)), "tls-files", State.PROBLEM, "expired on 2026-11-23", None),
    (
        certificate(not_before=NOW + timedelta(days=1)),
        *("tls-files", State.PROBLEM, "not valid before", "chronyc makestep"),
    ),
    (certificate(not_after=NOW + timedelta(days=3)), "tls-files", State.WARNING, "until 2026-11-27", None),
    (
        but(etcd={"files": (PemFile(setting="etcd-keyfile", path="k", problem="k: Permission denied"),)}),
        *("tls-files", State.PROBLEM, "etcd-keyfile: k: Permission denied", None),
    ),
    (
        but(etcd={"config_problem": "no network config", "config_advice": "write one"}),
        "network-config",
        State.PROBLEM,
        "no network",
        None,
    ),
    (lease(0, public_ip=PEER + 7), "lease", State.PROBLEM, "leased to 198.18.1.9", "systemctl restart overlayd"),
    (lease(0, subnet=IPv4Network("10.5.9.0/24")), "lease", State.PROBLEM, "not leased", "systemctl restart overlayd"),
    (but(network={"subnet": None}), "lease", State.PROBLEM, "holds no lease", None),
    (
        but(firewall={"kinds": (*WELL.firewall.kinds, IptablesRules(command="iptables-legacy", tables=parse(OTHERS)))}),
        *("iptables", State.WARNING, "1 rules are of iptables-legacy", None),
    ),
    (
        but(firewall={"chains": nft(base_chain("inet mine in", "ingress", policy="drop"))}),
        *("nftables", State.WARNING, "inet mine in", None),
    ),
    (
        but(firewall={"chains": nft(base_chain("bridge mine in", "input", policy="drop"))}),
        *("nftables", State.WARNING, "bridge mine in", None),
    ),
    (
        but(firewall={"firewalld": FIREWALLD}),
        "firewalld",
        State.PROBLEM,
        "in no zone",
        "firewall-cmd --permanent --zone=trusted --add-interface=overlay.1 && "
        "firewall-cmd --permanent --zone=public --add-port=8472/udp && firewall-cmd --reload",
    ),
    *DOCKER,
    (
        but(daemon={"open_files": 1000}),
        *("open-files", State.PROBLEM, "1000 of 1024", "mkdir -p /etc/systemd/system/overlayd.service.d && printf"),
    ),
]


@pytest.mark.parametrize(
    ("facts", "name", "state", "words", "remedy"), CASES, ids=[f"{case[1]}-{at}" for at, case in enumerate(CASES)]
)
def test_what_is_wrong_is_said_by_one_check_with_its_remedy(
    facts: Facts, name: str, state: State, words: str, remedy: str | None
) -> None:
    finding = found(facts, name)
    assert (finding.state, words in finding.found) == (state, True), finding
    assert others_bad(facts, name) == []
    if remedy is None:
        assert finding.remedy is None
        assert finding.advice
    else:
        assert finding.remedy is not None
        assert finding.remedy.startswith(remedy)


def test_two_leases_under_our_address_stop_packets_and_under_anothers_may() -> None:
    third = PublishedLease(key="10.5.3.0-24", subnet=IPv4Network("10.5.3.0/24"), public_ip=OWN, backend="vxlan")
    ours = but(etcd={"leases": (*(WELL.etcd.leases or ()), third)})
    assert found(ours, "duplicate-lease").state is State.PROBLEM
    theirs = but(etcd={"leases": (*(WELL.etcd.leases or ()), replace(third, public_ip=PEER))})
    assert found(theirs, "duplicate-lease").state is State.WARNING


def test_without_etcd_or_network_the_rest_is_still_judged() -> None:
    facts = replace(but(etcd={"problem": "away", "leases": None, "config": None}), network=None)
    states = {finding.name: finding.state for _title, findings in examine(facts) for finding in findings}
    assert states["etcd"] is State.PROBLEM
    assert {states[name] for name in ("lease", "network-config", "underlay-mtu")} == {State.UNKNOWN}
    assert states["ip-forward"] is State.OK


def test_an_interface_that_is_no_card_has_no_offloads_to_blame() -> None:
    assert found(but(underlay={"driver": None, "offloads": None}), "checksum-offload").state is State.OK


def test_what_could_not_be_asked_is_unknown() -> None:
    assert found(but(underlay={"same_address": None}), "duplicate-address").state is State.UNKNOWN
    assert found(but(host={"root": False}), "root").state is State.UNKNOWN
    assert found(but(host={"settings_problem": "x"}), "settings-file").state is State.UNKNOWN
    unread = IptablesRules(command="iptables", problem="not root")
    assert found(but(firewall={"kinds": (unread,)}), "iptables").state is State.UNKNOWN
    assert found(but(firewall={"chains": None}), "nftables").state is State.UNKNOWN
    assert found(but(docker={"drop_ins": None}), "docker-drop-in").state is State.UNKNOWN


def test_the_table_shows_remedies_below_what_they_mend() -> None:
    sections = examine(link("eth0", mtu_bytes=1400))
    said = lines(sections)
    at = next(at for at, line in enumerate(said) if "underlay-mtu" in line)
    assert said[at].split()[0] == "problem"
    assert said[at + 1].strip() == "run: ip link set dev eth0 mtu 1500"
    assert said[-1].startswith("problems: 1, warnings: 0")
    assert document(sections)["well"] is False
    assert document(examine(WELL))["well"] is True
    assert [one.name for _title, findings in sections for one in problems(findings)] == ["underlay-mtu"]


DECLARED = {*(name for section in SECTIONS for name in section.checks), NAME}


def test_a_fast_path_that_is_off_is_in_order_and_says_why() -> None:
    for state, words in (("on", "at every container"), ("it would bypass IPsec", "off: it would bypass IPsec")):
        found = [one for _title, findings in examine(but(daemon={"fast_path": state})) for one in findings]
        (finding,) = [one for one in found if one.name == "fast-path"]
        assert finding.state is State.OK
        assert words in finding.found


def test_doctor_says_how_the_daemon_carries_packets_itself() -> None:
    daemon = {"fast_path": "the setting fast-path is off", "forwarder": "UDP_SEGMENT, UDP_GRO"}
    found = [one.found for _title, findings in examine(but(daemon=daemon)) for one in findings]
    assert "off: the setting fast-path is off; the daemon carries packets itself: UDP_SEGMENT, UDP_GRO" in found


def test_the_readme_names_every_check() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    table = readme.partition("## When packets do not arrive")[2].partition("##")[0]
    named = {
        word for line in table.splitlines() if line.startswith("| ") for word in re.findall(r"`([a-z0-9-]+)`", line)
    }
    dockers = but(firewall={"chains": nft(base_chain("ip docker-bridges filter-FORWARD", "forward"))})
    blind = but(host={"root": False, "settings_problem": "x"})
    cases = [WELL, dockers, WAITS_FOR_ETCD, blind, *(case[0] for case in CASES)]
    seen = {finding.name for facts in cases for _title, findings in examine(facts) for finding in findings}
    assert named - {"--no-arp"} == DECLARED
    assert seen == DECLARED


@pytest.mark.parametrize("path", sorted(Path(checks.__file__).parent.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_check_stands_in_a_section(path: Path) -> None:
    module = importlib.import_module(f"{checks.__name__}.{path.stem}")
    examined = {check for section in SECTIONS for check in section.checks.values()}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__ and not name.startswith("_") and function is not reachability:
            assert function in examined, f"{path.name}: {name} is missing in CHECKS"

"""A host on which all is well, as values; tests change one thing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from overlayd.doctor.facts import (
    DaemonFacts,
    DockerFacts,
    EndpointFacts,
    EtcdFacts,
    Facts,
    FirewallFacts,
    HostFacts,
    KernelFeature,
    LinkFacts,
    NetworkFacts,
    PemFile,
    PublishedLease,
    ReturnRoute,
    UnderlayFacts,
)
from overlayd.lib.iptables_save import parse
from overlayd.lib.x509 import Certificate
from overlayd.ruleset.nftables import BaseChain
from overlayd.ruleset.nftables import parse as parse_nft
from overlayd.ruleset.packet_path import IptablesRules

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
OWN, PEER = IPv4Address("198.18.1.1"), IPv4Address("198.18.1.2")
MAC = "02:00:00:00:00:aa"
RULES = """\
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j OVERLAYD-PREROUTING
:OVERLAYD-PREROUTING - [0:0]
-A OVERLAYD-PREROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -i overlay.1 -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
-A FORWARD -s 10.5.0.0/16 -j ACCEPT
-A FORWARD -d 10.5.0.0/16 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 10.5.0.0/16 -i eth0 -j DROP
COMMIT
"""
WELL = Facts(
    host=HostFacts(
        root=True,
        now=NOW,
        sysctls={
            "net/ipv4/ip_forward": "1",
            "net/ipv4/conf/overlay.1/forwarding": "1",
            "net/ipv4/conf/all/rp_filter": "0",
            "net/netfilter/nf_conntrack_count": "100",
            "net/netfilter/nf_conntrack_max": "65536",
            "net/ipv4/neigh/default/gc_thresh3": "1024",
            "net/bridge/bridge-nf-call-iptables": "1",
        },
        features={
            "vxlan": KernelFeature(there=True, how="in the kernel"),
            "iptables": KernelFeature(there=True, how="tried and taken"),
        },
        neighbours=10,
        neighbour_overflows=0,
        links=(
            LinkFacts(name="eth0", mtu_bytes=1500, up=True),
            LinkFacts(name="overlay.1", mtu_bytes=1450, up=True, mac=MAC, kind="vxlan"),
            LinkFacts(
                name="docker0", mtu_bytes=1450, up=True, kind="bridge", addresses=(IPv4Interface("10.5.1.1/24"),)
            ),
            LinkFacts(name="veth1", mtu_bytes=1450, up=True, master="docker0"),
        ),
    ),
    daemon=DaemonFacts(running=True, state="ready", open_files=20, open_files_limit=1024),
    underlay=UnderlayFacts(
        ifname="eth0",
        address=OWN,
        public_ip=OWN,
        driver="virtio_net",
        offloads=frozenset({"tx-checksum-ip-generic"}),
        same_address=(),
        return_routes=(ReturnRoute(peer=PEER, underlay="eth0", overlay="overlay.1"),),
    ),
    etcd=EtcdFacts(
        open_to="",
        endpoints=(EndpointFacts(name="https://etcd1:2379", clock_offset_s=0.2),),
        files=(
            PemFile(
                setting="etcd-cafile",
                path="ca.pem",
                certificates=(
                    Certificate(
                        subject="CA", names=(), not_before=NOW - timedelta(days=9), not_after=NOW + timedelta(days=99)
                    ),
                ),
            ),
        ),
        config="10.5.0.0/16 by vxlan",
        leases=(
            PublishedLease(
                key="10.5.1.0-24", subnet=IPv4Network("10.5.1.0/24"), public_ip=OWN, backend="vxlan", mac=MAC
            ),
            PublishedLease(key="10.5.2.0-24", subnet=IPv4Network("10.5.2.0/24"), public_ip=PEER, backend="vxlan"),
        ),
    ),
    firewall=FirewallFacts(kinds=(IptablesRules(command="iptables", tables=parse(RULES)),), chains=()),
    docker=DockerFacts(installed=True, drop_ins=("50-overlayd.conf", "zz-overlayd.conf"), active=True, compared=True),
    network=NetworkFacts(
        network=IPv4Network("10.5.0.0/16"),
        backend="vxlan",
        mtu_bytes=1450,
        devices=("overlay.1",),
        subnet=IPv4Network("10.5.1.0/24"),
    ),
)


def but(**parts: dict[str, Any]) -> Facts:
    """The healthy host with some fields of some parts changed: `but(host={"root": False})`."""
    return replace(WELL, **{name: replace(getattr(WELL, name), **fields) for name, fields in parts.items()})


def sysctl(**values: str) -> Facts:
    """The healthy host with other kernel settings; two underscores stand for a slash."""
    changed = {name.replace("__", "/"): value for name, value in values.items()}
    return but(host={"sysctls": {**WELL.host.sysctls, **changed}})


def rules(text: str, **parts: dict[str, Any]) -> Facts:
    """The healthy host with these rules and no others."""
    return but(firewall={"kinds": (IptablesRules(command="iptables", tables=parse(text)),)}, **parts)


def base_chain(where: str, hook: str, *, policy: str = "accept", priority: int = 0) -> dict[str, Any]:
    """A base chain, `where` is family, table and name, as `nft -j list ruleset` shows it."""
    family, table, name = where.split()
    named = {"family": family, "table": table, "name": name}
    return {"chain": {**named, "type": "filter", "hook": hook, "prio": priority, "policy": policy}}


def nft_rule(where: str, *expressions: Any) -> dict[str, Any]:
    """A rule in that chain."""
    family, table, chain = where.split()
    return {"rule": {"family": family, "table": table, "chain": chain, "handle": 7, "expr": list(expressions)}}


def nft(*items: dict[str, Any]) -> tuple[BaseChain, ...]:
    """The base chains of a ruleset."""
    return parse_nft(items)

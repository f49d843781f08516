"""Firewall rules in the real kernel, with both backends, both kinds of iptables and both IP versions."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from overlayd import firewall
from overlayd.backends.listening import Listening
from overlayd.kernel import ipset
from overlayd.kernel.messages import NETLINK_NETFILTER
from overlayd.kernel.monitor import NFT_GROUPS, RECEIVE_BYTES, judge_rules
from overlayd.lib import marks
from tests.testbed.netns import namespaces
from tests.testbed.netns.forwarding import use_iptables
from tests.testbed.netns.namespaces import inside

V4 = firewall.Overlay(network=IPv4Network("10.5.0.0/16"), subnet=IPv4Network("10.5.1.0/24"))
V6 = firewall.Overlay(network=IPv6Network("fd00:5::/48"), subnet=IPv6Network("fd00:5:0:1::/64"))
DEVICES = ("overlay.1", "eth0")
# A desired state with everything that there are rules for.
DAEMON_JSON = {"firewall-backend": "nftables", "bridge-accept-fwmark": "0x10/0x30"}
WANTED = firewall.desired(
    overlays=[V4, V6],
    devices=DEVICES,
    masquerade=True,
    daemon_json=DAEMON_JSON,
    listens=[
        Listening(version=4, protocol="udp", port=8472),
        Listening(version=6, protocol="udp", port=8472),
        Listening(version=4, protocol="4"),
    ],
    peers=[IPv4Address("198.18.0.9"), IPv4Address("198.18.0.10"), IPv6Address("2001:2::9")],
    leased=[IPv4Network("10.5.2.0/24"), IPv4Network("10.5.3.0/28"), IPv6Network("fd00:5:0:2::/64")],
    other_bridges=["lan"],
    routers=["02:ab:cd:ef:00:fe"],
    trusted=[IPv4Network("198.18.7.0/24"), IPv4Network("198.18.8.8/32"), IPv6Network("2001:2:7::/48")],
)
ONLY_V4 = firewall.desired(overlays=[V4], devices=DEVICES, masquerade=True)
TABLES = ("filter", "nat", "raw", "mangle")
DOCKER_28 = """\
*filter
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-I FORWARD 1 -j DOCKER-USER
-I FORWARD 2 -j DOCKER-FORWARD
-A DOCKER-FORWARD ! -i docker0 -o docker0 -j DROP
COMMIT
*raw
-I PREROUTING 1 -d 10.5.1.2 ! -i docker0 -j DROP
COMMIT
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    """An empty namespace."""
    name = namespaces.unique("fw")
    namespaces.make(name)
    yield name
    namespaces.remove(name)


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str) -> str:
    """A namespace in which `iptables` is of that kind."""
    use_iptables(request.param, tmp_path, monkeypatch)
    return namespace


@pytest.fixture(params=["iptables", "nftables"])
def backend(request: pytest.FixtureRequest) -> str:
    """The backend to use."""
    name: str = request.param
    return name


def sync(host: str, backend: str, wanted: firewall.DesiredRules = WANTED) -> bool:
    """Sync in the namespace as a newly started daemon does; whether anything was written."""
    report = inside(host, partial(firewall.Firewall(backend).sync, wanted))
    assert (report.backend, report.problems) == (None if backend == "none" else backend, ())
    assert report.limits == ()
    return report.written


def test_rules_are_read_back_as_they_were_written(host: str, backend: str) -> None:
    assert sync(host, backend)
    assert not sync(host, backend)
    there = rules(host)
    for version in ("iptables", "ip6tables"):
        assert any(line.startswith(f"{version}: -A OVERLAYD-DOCKER ") for line in there)


def test_a_look_that_finds_no_difference_causes_no_notification(host: str, backend: str) -> None:
    # Otherwise the daemon's own look would wake it again and again.
    with inside(host, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        listener.bind((0, NFT_GROUPS))
        sync(host, "nftables")
        assert judge_rules(listener.recv(65536))
        sync(host, backend)
        while True:
            try:
                listener.recv(65536)
            except BlockingIOError:
                break
        assert not sync(host, backend)
        with pytest.raises(BlockingIOError):
            listener.recv(65536)


def test_the_order_of_rules_is_restored(host: str, backend: str) -> None:
    namespaces.run(host, ["iptables", "-N", "DOCKER-USER"])
    namespaces.run(host, ["iptables", "-A", "DOCKER-USER", "-j", "RETURN"])
    sync(host, backend)
    before = rules(host)
    raw = ["iptables", "-t", "raw", "-I", "PREROUTING", "-d", "10.5.1.2", "!", "-i", "docker0", "-j", "DROP"]
    namespaces.run(host, raw)
    namespaces.run(host, ["iptables", "-I", "DOCKER-USER", "-j", "RETURN"])
    assert sync(host, backend)
    assert not sync(host, backend)
    after = rules(host)
    saved = namespaces.run(host, ["iptables-save", "-t", "raw"]).splitlines()
    raw = [line.split()[-1] for line in saved if line.startswith("-A PREROUTING")]
    assert raw == ["OVERLAYD-PREROUTING", "DROP"]
    user = [line.split()[-1] for line in after if line.startswith("iptables: -A DOCKER-USER")]
    assert user == ["OVERLAYD-DOCKER", "RETURN", "RETURN"]
    assert len(after) == len(before) + 2


def flush_filter(host: str) -> None:
    """Run a command in the namespace, as an administrator would type it."""
    namespaces.run(host, ["iptables", "-F"])


def flush_nat(host: str) -> None:
    """Chains and tables of overlayd, of both backends."""
    namespaces.run(host, ["iptables", "-t", "nat", "-F"])
    if ("ip", "overlayd") in nft_tables(host):
        namespaces.run(host, ["nft", "flush", "table", "ip", "overlayd"])


def reload_firewalld(host: str) -> None:
    """Flush as firewalld does at a reload: all rules and user-defined chains, in both IP versions."""
    for command in ("iptables", "ip6tables"):
        for table in TABLES:
            namespaces.run(host, [command, "-t", table, "-F"])
            namespaces.run(host, [command, "-t", table, "-X"])
    namespaces.run(host, ["nft", "flush", "ruleset"])


def restart_dockerd(host: str) -> None:
    """Do what a starting dockerd does: rewrite its chains, and put their jumps before ours."""
    namespaces.run(host, ["iptables-restore", "--noflush"], input=DOCKER_28)


@pytest.mark.parametrize("disturb", [flush_filter, flush_nat, reload_firewalld, restart_dockerd])
def test_rules_come_back_in_their_order(host: str, backend: str, disturb: Callable[[str], None]) -> None:
    sync(host, backend)
    if disturb is restart_dockerd:
        restart_dockerd(host)
        sync(host, backend)
    before = rules(host, only_ours=True)
    disturb(host)
    assert rules(host, only_ours=True) != before or disturb is restart_dockerd
    assert sync(host, backend)
    assert not sync(host, backend)
    assert rules(host, only_ours=True) == before
    first = next(line for line in rules(host) if line.startswith("iptables: -A PREROUTING"))
    assert first.endswith("OVERLAYD-PREROUTING")


def test_every_kind_of_damage_to_our_table_is_seen(namespace: str) -> None:
    sync(namespace, "nftables")
    listing = namespaces.run(namespace, ["nft", "-a", "list", "chain", "ip", "overlayd", "postrouting"])
    handles = [line.split()[-1] for line in listing.splitlines() if "masquerade" in line]
    chain = "ip overlayd postrouting"
    for damage in (
        f"delete rule {chain} handle {handles[0]}",
        f"insert rule {chain} accept",
        f'add rule {chain} accept comment "overlayd"',
        "add chain ip overlayd more",
        "add set ip overlayd more { type ipv4_addr; }",
        f"add chain {chain} {{ policy drop; }}",
        "flush table ip6 overlayd",
        "delete table ip6 overlayd",
    ):
        namespaces.run(namespace, ["nft", "-f", "-"], input=f"{damage}\n")
        assert sync(namespace, "nftables"), damage
        assert not sync(namespace, "nftables"), damage


def test_cleanup_takes_all_of_ours_and_nothing_else(host: str, backend: str) -> None:
    namespaces.run(host, ["iptables", "-A", "FORWARD", "-m", "comment", "--comment", "not overlayd", "-j", "ACCEPT"])
    namespaces.run(host, ["nft", "-f", "-"], input="table ip overlayed { chain overlayd { accept; }; }\n")
    before = everything(host)
    sync(host, backend)
    assert everything(host) != before
    assert inside(host, lambda: list(firewall.cleanup()))
    assert everything(host) == before
    assert inside(host, lambda: list(firewall.cleanup())) == []


def test_cleanup_finds_what_other_backends_and_kinds_have_left(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("legacy", "nft"):
        (tmp_path / kind).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            use_iptables(kind, tmp_path / kind, patch)
            # None of these has removed what the one before left.
            for backend in ("iptables", "nftables"):
                inside(namespace, partial(untidy(backend).sync, WANTED))
    removed = inside(namespace, lambda: list(firewall.cleanup()))
    assert {line.split()[0] for line in removed} >= {"nftables", "iptables", "ip6tables", "iptables-legacy"}
    assert ours(everything(namespace)) == []


def untidy(backend: str) -> firewall.Firewall:
    """A Firewall that has already removed what other choices left."""
    made = firewall.Firewall(backend)
    made._stale_removed = True
    return made


def test_another_choice_removes_what_the_last_one_left(host: str) -> None:
    sync(host, "iptables")
    assert ("ip", "overlayd") not in nft_tables(host)
    sync(host, "nftables")
    there = rules(host)
    assert not [line for line in there if "OVERLAYD-POSTROUTING" in line]
    assert {("ip", "overlayd"), ("ip6", "overlayd")} <= nft_tables(host)
    sync(host, "iptables")
    assert [line for line in rules(host) if "OVERLAYD-POSTROUTING" in line]
    assert not nft_tables(host) & {("ip", "overlayd"), ("ip6", "overlayd")}
    sync(host, "nftables")
    assert sync(host, "none")
    assert ours(everything(host)) == []
    assert not sync(host, "none")


def test_another_kind_of_iptables_removes_what_the_last_one_left(namespace: str, tmp_path: Path) -> None:
    for kind, other in (("legacy", "nft"), ("nft", "legacy")):
        (tmp_path / kind).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            use_iptables(kind, tmp_path / kind, patch)
            sync(namespace, "iptables")
        assert ours(namespaces.run(namespace, [f"iptables-{kind}-save"]).splitlines())
        assert not ours(namespaces.run(namespace, [f"iptables-{other}-save"]).splitlines())


def test_an_ip_version_that_is_no_longer_carried_leaves_nothing(host: str, backend: str) -> None:
    sync(host, backend)
    assert sync(host, backend, ONLY_V4)
    assert not [line for line in rules(host, only_ours=True) if line.startswith("ip6tables")]
    assert ("ip6", "overlayd") not in nft_tables(host)
    assert not sync(host, backend, ONLY_V4)


def test_a_machine_without_any_program_is_told_what_to_install(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for choice in ("auto", "iptables", "nftables"):
        report = inside(namespace, partial(firewall.Firewall(choice).sync, WANTED))
        assert report.backend is None
        assert "install the package iptables" in report.problems[0]
    assert inside(namespace, partial(firewall.Firewall("none").sync, WANTED)) == firewall.FirewallReport(backend=None)
    assert inside(namespace, lambda: list(firewall.cleanup())) == []


def test_auto_chooses_an_installed_program(namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(*, prefer_nftables: bool) -> str | None:
        made = firewall.Firewall("auto", prefer_nftables=prefer_nftables)
        report = inside(namespace, partial(made.sync, ONLY_V4))
        assert report.problems == ()
        return report.backend

    assert chosen(prefer_nftables=False) == "iptables"
    assert chosen(prefer_nftables=True) == "nftables"
    nft = shutil.which("nft")
    assert nft is not None
    (tmp_path / "nft").symlink_to(nft)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chosen(prefer_nftables=False) == "nftables"


# This kernel has NAT for IPv6. Wrappers around the real programs answer as on a kernel without it.
NO_NAT = """\
#!/bin/sh
text=
case "$*" in *restore*|*noflush*|*"-f -"*) text=$(/bin/cat) ;; esac
case "$0 $* $text" in
*"*nat"*|*"-t nat"*|*"table ip6 "*" nat "*) echo "can't initialize ip6tables table nat" >&2; exit 3 ;;
esac
if [ -n "$text" ]; then printf '%s\\n' "$text" | exec {real} "$@"; fi
exec {real} "$@"
"""


def test_without_nat_for_ipv6_all_other_rules_are_written_and_a_limit_is_reported(
    host: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "without-nat"
    folder.mkdir()
    for command in ("ip6tables", "ip6tables-restore", "nft"):
        real = shutil.which(command)
        assert real is not None
        (folder / command).write_text(NO_NAT.replace("{real}", real))
        (folder / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    kept = firewall.Firewall(backend)
    report = inside(host, partial(kept.sync, WANTED))
    assert report.problems == ()
    assert "no NAT for IPv6" in report.limits[0]
    again = inside(host, partial(kept.sync, WANTED))
    assert not again.written
    assert again.limits == report.limits
    lines = everything(host)
    assert [line for line in lines if "OVERLAYD-DOCKER" in line and "fd00:5::/48" in line]
    assert not [line for line in lines if "asquerade" in line.lower() and "fd00:5::/48" in line]
    assert [line for line in lines if "asquerade" in line.lower() and "10.5.0.0/16" in line]


def ours(lines: list[str]) -> list[str]:
    """Those lines that are overlayd's."""
    return [line for line in lines if "overlayd" in line.lower()]


def nft_tables(host: str) -> set[tuple[str, str]]:
    """Family and name of every nftables table."""
    lines = namespaces.run(host, ["nft", "list", "tables"]).splitlines()
    return {(family, name) for _table, family, name in map(str.split, lines)}


def rules(host: str, *, only_ours: bool = False) -> list[str]:
    """All rules and user-defined chains of the iptables in use, and our nftables tables, in both IP versions."""
    found = []
    for command in ("iptables", "ip6tables"):
        lines = namespaces.run(host, [f"{command}-save"]).splitlines()
        found += [f"{command}: {line}" for line in lines if line.startswith("-A") or " - [" in line]
    for family in ("ip", "ip6"):
        if (family, "overlayd") in nft_tables(host):
            found += namespaces.run(host, ["nft", "-s", "list", "table", family, "overlayd"]).splitlines()
    return [line for line in found if "overlayd" in line.lower()] if only_ours else found


def everything(host: str) -> list[str]:
    """All rules and user-defined chains of all programs."""
    found = []
    for command in ("iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"):
        lines = namespaces.run(host, [command]).splitlines()
        found += [line for line in lines if line.startswith("-A") or " - [" in line]
    for family, name in sorted(nft_tables(host)):
        # What iptables-nft made is listed above already, as iptables-nft prints it.
        if name not in TABLES:
            found += namespaces.run(host, ["nft", "-s", "list", "table", family, name]).splitlines()
    sets = {name: inside(host, partial(ipset.read, name)) for name in marks.ours().sets}
    return [*found, *(f"set {name}: overlayd" for name, entries in sets.items() if entries is not None)]

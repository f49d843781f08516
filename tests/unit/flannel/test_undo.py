"""The commands that take flannel's rules and unit away, and nobody else's."""

from __future__ import annotations

from overlayd.flannel.undo import iptables, nftables, steps
from overlayd.lib.marks import of

NETWORK = "10.42.0.0/16"
NEW = """\
*nat
:PREROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A FLANNEL-POSTRTG -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FORWARD -j DOCKER-USER
-A FLANNEL-FWD -s 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"""
OLD = """\
*nat
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.42.0.0/16 -d 10.42.0.0/16 -j RETURN
-A POSTROUTING -s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING ! -s 10.42.0.0/16 -d 10.42.0.0/16 -j MASQUERADE
COMMIT
*filter
-A FORWARD -s 10.42.0.0/16 -d 10.42.0.0/16 -j RETURN
COMMIT
"""


def test_chains_go_after_the_rules_that_lead_to_them() -> None:
    assert iptables(NEW, network=NETWORK) == [
        'iptables -t nat -D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG',
        "iptables -t nat -F FLANNEL-POSTRTG",
        "iptables -t nat -X FLANNEL-POSTRTG",
        'iptables -t filter -D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
        "iptables -t filter -F FLANNEL-FWD",
        "iptables -t filter -X FLANNEL-FWD",
    ]


def test_rules_of_an_old_flannel_are_known_by_their_network() -> None:
    assert iptables(OLD, network=NETWORK) == [
        "iptables -t nat -D POSTROUTING -s 10.42.0.0/16 -d 10.42.0.0/16 -j RETURN",
        "iptables -t nat -D POSTROUTING -s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
        "iptables -t nat -D POSTROUTING ! -s 10.42.0.0/16 -d 10.42.0.0/16 -j MASQUERADE",
    ]
    assert iptables(OLD, network=None) == []


def test_nftables_of_flannel_are_known_by_their_names() -> None:
    listed = "table ip filter\ntable ip flannel-ipv4\ntable ip6 flannel-ipv6\ntable inet mine\n"
    assert nftables(listed) == ["nft delete table ip flannel-ipv4", "nft delete table ip6 flannel-ipv6"]


def test_docker_is_not_stopped_along_and_overlayd_comes_last() -> None:
    lines = steps(
        unit="flanneld.service",
        required=True,
        devices=["flannel.1"],
        docker_files=["/usr/lib/systemd/system/docker.service.d/flannel.conf", "/etc/sysconfig/docker-network"],
        rules=["iptables -X"],
        network=of(0),
    )
    order = [
        "systemctl disable flanneld.service",
        "systemctl stop flanneld.service",
        "test ! -e /sys/class/net/flannel.1 || ip link delete flannel.1",
        "iptables -X",
        "systemctl enable --now overlayd",
    ]
    assert [line for line in lines if line in order] == order
    # Disabling takes docker's requirement away, and systemd must know before the unit stops.
    assert "systemctl daemon-reload" in lines[lines.index(order[0]) : lines.index(order[1])]
    assert any("would stop docker too" in line for line in lines)
    assert any(line.endswith("ln -sf /dev/null /etc/systemd/system/docker.service.d/flannel.conf") for line in lines)
    assert any(line.startswith("# edit /etc/sysconfig/docker-network") for line in lines)

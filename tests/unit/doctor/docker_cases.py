"""What may be wrong with docker: the facts, the one check that says it, how, in which words, and its remedy."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface

from overlayd.doctor.facts import EndpointFacts, Facts
from overlayd.doctor.finding import State
from tests.unit.doctor.values import RULES, WELL, but

Case = tuple[Facts, str, State, str, str | None]


def bridge(facts: Facts, *addresses: str) -> Facts:
    """With docker0 on these addresses; without any, it is not there."""
    links = [link for link in facts.host.links if link.name != "docker0"]
    docker0 = next(link for link in WELL.host.links if link.name == "docker0")
    if addresses:
        links.append(replace(docker0, addresses=tuple(IPv4Interface(one) for one in addresses)))
    return replace(facts, host=replace(facts.host, links=tuple(links)))


FAILED = {
    "active": False,
    "compared": False,
    "failed": True,
    "down": "docker.service failed: mutually exclusive options",
}
STOPPED = {"active": False, "compared": False, "down": "docker.service is enabled and stopped"}
SILENT = {"endpoints": (EndpointFacts(name="http://127.0.0.1:2379", problem="refused"),)}
WAITING = {"active": False, "compared": False, "etcd_here": True}
WAITS_FOR_ETCD = but(docker=WAITING, daemon={"state": "waiting", "problems": ("etcd is away",)}, etcd=SILENT)
MASQUERADED = RULES + "*nat\n:POSTROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n"
OTHERS_RULE = "-A POSTROUTING -s 10.0.0.0/8 -o eth0 -j MASQUERADE"

CASES: list[Case] = [
    (but(docker=FAILED), "docker-service", State.PROBLEM, "mutually exclusive", None),
    (but(docker=STOPPED), "docker-service", State.PROBLEM, "stopped", "systemctl start docker"),
    (
        but(docker={"otherwise": "dockerd runs without --mtu=1450"}),
        *("docker-options", State.PROBLEM, "without --mtu=1450", "overlayd docker settle"),
    ),
    (
        bridge(but(docker={"active": False})),
        *("docker-bridge", State.WARNING, "docker has not started", "systemctl start docker"),
    ),
    (bridge(but(docker={"active": False, "on_its_way": True})), "docker-bridge", State.WARNING, "on its way", None),
    (bridge(but(docker={"active": None})), "docker-bridge", State.WARNING, "systemd tells of no docker.service", None),
    (
        bridge(but(docker={"active": None, "installed": False})),
        *("docker-bridge", State.WARNING, "docker is not installed", None),
    ),
    (bridge(WELL), "docker-bridge", State.WARNING, "though docker runs", None),
    (bridge(WELL, "172.17.0.1/16"), "docker-bridge", State.PROBLEM, "172.17.0.1/16", "overlayd docker settle"),
    (
        bridge(but(docker={"active": False, "compared": False, "at_rest": True}), "172.17.0.1/16"),
        *("docker-bridge", State.WARNING, "docker does not run", None),
    ),
    (
        # docker0 stays as it is while these containers run.
        bridge(but(docker={"settings": {"live-restore": True}}), "172.17.0.1/16"),
        *("docker-bridge", State.PROBLEM, "172.17.0.1/16", "ids=$(docker ps -q); docker stop $ids; "),
    ),
    (but(docker={"conflicts": ("bip is set",)}), "daemon-json", State.PROBLEM, "bip is set", None),
    (
        but(docker={"drop_ins": ("50-overlayd.conf",)}),
        *("docker-drop-in", State.PROBLEM, "zz-overlayd.conf", "systemctl enable overlayd"),
    ),
    (
        but(docker={"left_to_others": True, "masqueraded": False}),
        *("masquerading", State.PROBLEM, "outside", "iptables -t nat -A POSTROUTING -s 10.5.1.0/24 ! -d 10.5.0.0/16"),
    ),
]

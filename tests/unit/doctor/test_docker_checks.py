"""What doctor says of docker where several things are wrong at once."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from overlayd.docker.masquerade import by_nft, masqueraded
from overlayd.doctor.checks import examine
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, State
from overlayd.lib.iptables_save import parse
from tests.unit.doctor.docker_cases import FAILED, MASQUERADED, OTHERS_RULE, SILENT, STOPPED, WAITING, bridge
from tests.unit.doctor.values import WELL, but


def found(facts: Facts, name: str) -> Finding | None:
    return next((one for _title, findings in examine(facts) for one in findings if one.name == name), None)


@pytest.mark.parametrize("docker", [FAILED, STOPPED, WAITING], ids=["failed", "stopped", "waiting"])
def test_nobody_is_told_to_start_docker_while_it_would_wait_for_overlayd(docker: dict[str, object]) -> None:
    # systemctl would hang: docker.service comes after overlayd.service, which is not up before it has a subnet.
    facts = bridge(but(docker=docker, daemon={"state": "waiting", "problems": ("etcd is away",)}, etcd=SILENT))
    for _title, findings in examine(facts):
        for finding in findings:
            told = f"{finding.remedy} {finding.advice}"
            assert "start docker" not in told or "disable --now overlayd" in told, finding


def test_an_etcd_in_this_docker_is_named_with_the_way_out() -> None:
    waits = {"state": "waiting", "problems": ("etcd is away",)}
    finding = found(but(docker=WAITING, daemon=waits, etcd=SILENT), "docker-and-etcd")
    assert finding is not None
    assert (finding.state, "disable --now overlayd" in str(finding.remedy)) == (State.PROBLEM, True)
    finding = found(but(docker={**WAITING, "remembered": True}, daemon=waits, etcd=SILENT), "docker-and-etcd")
    assert finding is not None
    assert (finding.state, finding.remedy) == (State.WARNING, None)
    # One that answers is no matter, nor is one elsewhere.
    assert found(but(docker=WAITING, daemon=waits), "docker-and-etcd") is None
    assert found(but(docker={**WAITING, "etcd_here": False}, daemon=waits, etcd=SILENT), "docker-and-etcd") is None


@pytest.mark.parametrize(
    ("rule", "well"),
    [
        (OTHERS_RULE, True),
        ("-A POSTROUTING -j MINE\n-A MINE -s 10.5.1.0/24 ! -d 10.5.0.0/16 -j SNAT --to-source 198.18.1.1", True),
        ("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", False),
        ("-A POSTROUTING ! -s 10.5.0.0/16 -j MASQUERADE", False),
        ("-A MINE -j MASQUERADE", False),
    ],
)
def test_somebody_elses_masquerading_is_seen(rule: str, well: bool) -> None:
    tables = parse(MASQUERADED.format(rule=rule))
    assert masqueraded(tables, ip_network("10.5.1.0/24")) == well


@pytest.mark.parametrize(("somebody", "state"), [(True, State.OK), (False, State.PROBLEM)])
def test_nobody_who_masquerades_is_a_problem_where_it_is_left_to_others(somebody: bool, state: State) -> None:
    finding = found(but(docker={"left_to_others": True, "masqueraded": somebody}), "masquerading")
    assert finding is not None
    assert finding.state is state
    assert found(WELL, "masquerading") is None
    assert found(but(docker={"left_to_others": True}), "masquerading") is None


@pytest.mark.parametrize(
    ("listing", "well"),
    [
        ("table inet mine {\n\tchain out {\n\t\tip saddr 10.5.0.0/16 masquerade\n\t}\n}\n", True),
        ("table ip mine {\n\tchain out {\n\t\tsnat to 198.18.1.1\n\t}\n}\n", True),
        # iptables' own, which are read by themselves.
        ("table ip nat {\n\tchain POSTROUTING {\n\t\tip saddr 172.17.0.0/16 masquerade\n\t}\n}\n", False),
        ("", False),
    ],
)
def test_nftables_rules_count_whoever_wrote_them(listing: str, well: bool) -> None:
    assert by_nft(listing) == well


def test_a_container_with_another_mtu_is_started_anew_after_docker_where_docker_has_it_from() -> None:
    links = tuple(link for link in WELL.host.links if link.name != "veth1")
    large = next(link for link in WELL.host.links if link.name == "veth1")
    facts = but(host={"links": (*links, type(large)(**{**vars(large), "mtu_bytes": 1500}))})
    finding = found(facts, "container-mtu")
    assert finding is not None
    assert finding.remedy == "docker restart $(docker ps -q)"
    facts = but(host={"links": facts.host.links}, docker={"otherwise": "dockerd runs with --mtu=1500"})
    finding = found(facts, "container-mtu")
    assert finding is not None
    assert "systemctl restart docker && docker restart $ids" in str(finding.remedy)


def test_docker_is_not_restarted_for_another_networks_containers() -> None:
    links = tuple(replace(link, mtu_bytes=1500) if link.name == "veth1" else link for link in WELL.host.links)
    finding = found(replace(but(host={"links": links}), number=1), "container-mtu")
    assert finding is not None
    assert finding.remedy is None
    assert "com.docker.network.driver.mtu=1450" in str(finding.advice)

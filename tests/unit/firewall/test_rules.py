"""Rules in, iptables-restore lines out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from overlayd.firewall.diff import changes, parse, restore_input
from overlayd.firewall.rules import Ruleset, desired

NETWORK, SUBNET = IPv4Network("10.5.0.0/16"), IPv4Network("10.5.52.0/24")
DOCKER = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [3:180]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-USER -s 10.5.9.9/32 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 10.5.52.2/32 ! -i docker0 -j DROP
COMMIT
"""


@pytest.fixture
def wanted() -> Ruleset:
    """What a vxlan host wants."""
    return desired(network=NETWORK, subnet=SUBNET, devices=("overlay.1",), masquerade=True)


def applied(saved: str, lines: dict[str, list[str]]) -> str:
    """What iptables-save would print after the lines are restored: a model of iptables-restore --noflush."""
    tables = {table: {name: list(rules) for name, rules in chains.items()} for table, chains in parse(saved).items()}
    for table, body in lines.items():
        chains = tables.setdefault(table, {})
        for line in body:
            verb, _, rest = line.partition(" ")
            if verb.startswith(":"):
                chains[verb[1:]] = []
                continue
            name, _, rule = rest.partition(" ")
            if verb == "-A":
                chains[name].append(rule)
            elif verb == "-D":
                chains[name].remove(rule)
            elif verb == "-X":
                assert not chains.pop(name)
            else:
                place, _, rule = rule.partition(" ")
                chains.setdefault(name, []).insert(int(place) - 1, rule)
    return "".join(
        "".join(
            [
                f"*{table}\n",
                *(f":{name} - [0:0]\n" for name in chains),
                *(f"-A {name} {rule}\n" for name, rules in chains.items() for rule in rules),
                "COMMIT\n",
            ]
        )
        for table, chains in tables.items()
    )


def test_a_second_sync_writes_nothing(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, parse(DOCKER)))
    assert changes(wanted, parse(after)) == {}


def test_an_empty_host_gets_every_table(wanted: Ruleset) -> None:
    text = restore_input(changes(wanted, {}))
    assert [line for line in text.splitlines() if line.startswith("*")] == ["*filter", "*nat", "*raw"]
    assert changes(wanted, parse(applied("", changes(wanted, {})))) == {}


def test_masquerading_has_flannels_order() -> None:
    rules = desired(network=NETWORK, subnet=SUBNET, devices=("overlay.1",), masquerade=True).chains[0].rules
    assert [rule.replace("-m comment --comment overlayd ", "") for rule in rules] == [
        "-m mark --mark 0x4000/0x4000 -j RETURN",
        "-s 10.5.52.0/24 -d 10.5.0.0/16 -j RETURN",
        "-s 10.5.0.0/16 -d 10.5.52.0/24 -j RETURN",
        "! -s 10.5.0.0/16 -d 10.5.52.0/24 -j RETURN",
        "-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
        "! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE --random-fully",
    ]


def test_an_administrators_drop_in_docker_user_wins(wanted: Ruleset) -> None:
    rules = parse(applied(DOCKER, changes(wanted, parse(DOCKER))))["filter"]["DOCKER-USER"]
    assert [rule.split()[-1] for rule in rules] == ["DROP", "OVERLAYD-DOCKER", "RETURN"]


def test_a_drop_appended_behind_our_jump_is_put_before_it(wanted: Ruleset) -> None:
    without_return = DOCKER.replace("-A DOCKER-USER -j RETURN\n", "")
    after = applied(without_return, changes(wanted, parse(without_return)))
    appended = after.replace("COMMIT\n*nat", "-A DOCKER-USER -s 10.5.7.7/32 -j DROP\nCOMMIT\n*nat", 1)
    appended = after.replace(
        "-A DOCKER-USER -m comment --comment overlayd -j OVERLAYD-DOCKER\n",
        "-A DOCKER-USER -m comment --comment overlayd -j OVERLAYD-DOCKER\n-A DOCKER-USER -s 10.5.7.7/32 -j DROP\n",
    )
    assert appended != after
    rules = parse(applied(appended, changes(wanted, parse(appended))))["filter"]["DOCKER-USER"]
    assert [rule.split()[-1] for rule in rules] == ["DROP", "DROP", "OVERLAYD-DOCKER"]


def test_raw_accept_is_put_back_first_when_docker_inserted_before_it(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, parse(DOCKER)))
    pushed = after.replace(
        "-A PREROUTING -m comment", "-A PREROUTING -d 10.5.52.3/32 ! -i docker0 -j DROP\n-A PREROUTING -m comment"
    )
    assert pushed != after
    lines = changes(wanted, parse(pushed))
    assert list(lines) == ["raw"]
    assert parse(applied(pushed, lines))["raw"]["PREROUTING"][0].endswith("-j OVERLAYD-PREROUTING")


def test_without_docker_user_the_door_is_before_dockers_own_chains(wanted: Ruleset) -> None:
    old = "*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n-A FORWARD -o docker0 -j DOCKER\nCOMMIT\n"
    after = applied(old, changes(wanted, parse(old)))
    targets = [rule.split()[-1] for rule in parse(after)["filter"]["FORWARD"]]
    assert targets == ["OVERLAYD-DOCKER", "DOCKER", "OVERLAYD-FORWARD"]
    # Docker starts, and makes DOCKER-USER: the door moves.
    with_user = after.replace(":DOCKER -", ":DOCKER-USER - [0:0]\n:DOCKER -").replace(
        "-A FORWARD -o", "-A FORWARD -j DOCKER-USER\n-A FORWARD -o"
    )
    chains = parse(applied(with_user, changes(wanted, parse(with_user))))["filter"]
    assert [rule.split()[-1] for rule in chains["FORWARD"]] == ["DOCKER-USER", "DOCKER", "OVERLAYD-FORWARD"]
    assert [rule.split()[-1] for rule in chains["DOCKER-USER"]] == ["OVERLAYD-DOCKER"]


def test_forward_accepts_stand_before_a_closing_reject(wanted: Ruleset) -> None:
    closed = (
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i lo -j ACCEPT\n-A FORWARD -j REJECT --reject-with x\nCOMMIT\n"
    )
    rules = parse(applied(closed, changes(wanted, parse(closed))))["filter"]["FORWARD"]
    assert rules[-1].startswith("-j REJECT")
    assert rules[-2].endswith("OVERLAYD-FORWARD")


def test_a_changed_rule_rewrites_its_chain_only(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, parse(DOCKER)))
    other = desired(network=NETWORK, subnet=IPv4Network("10.5.53.0/24"), devices=("overlay.1",), masquerade=True)
    lines = changes(other, parse(after))
    assert list(lines) == ["nat"]
    assert not [line for line in lines["nat"] if line.startswith(("-D", "-I"))]


def test_duplicates_of_our_jump_go(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, parse(DOCKER)))
    jump = "-A POSTROUTING -m comment --comment overlayd -j OVERLAYD-POSTROUTING\n"
    doubled = after.replace(jump, jump * 2)
    rules = parse(applied(doubled, changes(wanted, parse(doubled))))["nat"]["POSTROUTING"]
    assert len(rules) == 1


def test_nothing_of_ours_and_nothing_else_is_gone_when_nothing_is_wanted(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, parse(DOCKER)))
    left = parse(applied(after, changes(Ruleset(), parse(after))))
    assert "OVERLAYD" not in repr(left)
    before = parse(DOCKER)
    assert {table: left[table] for table in before} == before


def test_turning_masquerading_off_removes_its_chain(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, parse(DOCKER)))
    off = replace(
        wanted,
        chains=tuple(chain for chain in wanted.chains if chain.table != "nat"),
        jumps=tuple(jump for jump in wanted.jumps if jump.table != "nat"),
    )
    left = parse(applied(after, changes(off, parse(after))))
    assert left["nat"] == {"POSTROUTING": ()}

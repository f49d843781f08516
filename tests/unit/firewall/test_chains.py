"""What is wanted, as iptables chains; chains in, iptables-restore lines out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.backends.listening import Listening
from overlayd.firewall.chains import Ruleset, ruleset, without_sets
from overlayd.firewall.diff import changes, read, restore_input
from overlayd.firewall.rules import NOTHING, DesiredRules, Overlay, desired

V4 = Overlay(network=IPv4Network("10.5.0.0/16"), subnet=IPv4Network("10.5.52.0/24"))
V6 = Overlay(network=IPv6Network("fd00:5::/48"), subnet=IPv6Network("fd00:5:0:52::/64"))
DUAL = desired(overlays=[V4, V6], devices=("overlay.1",), masquerade=True)
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
    return ruleset(DUAL, 4)


def applied(saved: str, lines: dict[str, list[str]]) -> str:
    """What iptables-save would print after the lines are restored: a model of iptables-restore --noflush."""
    tables = {table: {name: list(rules) for name, rules in chains.items()} for table, chains in read(saved).items()}
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
    after = applied(DOCKER, changes(wanted, read(DOCKER)))
    assert changes(wanted, read(after)) == {}


def test_an_empty_host_gets_every_table(wanted: Ruleset) -> None:
    text = restore_input(changes(wanted, {}))
    assert [line for line in text.splitlines() if line.startswith("*")] == ["*mangle", "*raw", "*filter", "*nat"]
    assert changes(wanted, read(applied("", changes(wanted, {})))) == {}


def test_masquerading_has_flannels_order() -> None:
    rules = next(chain.rules for chain in ruleset(DUAL, 4).chains if chain.table == "nat")
    assert [rule.replace("-m comment --comment overlayd ", "") for rule in rules] == [
        "-m mark --mark 0x4000/0x4000 -j RETURN",
        "-s 10.5.52.0/24 -d 10.5.0.0/16 -j RETURN",
        "-s 10.5.0.0/16 -d 10.5.52.0/24 -j RETURN",
        "! -s 10.5.0.0/16 -d 10.5.52.0/24 -j RETURN",
        "-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
        "! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE --random-fully",
    ]


def test_an_administrators_drop_in_docker_user_wins(wanted: Ruleset) -> None:
    rules = read(applied(DOCKER, changes(wanted, read(DOCKER))))["filter"]["DOCKER-USER"]
    assert [rule.split()[-1] for rule in rules] == ["DROP", "OVERLAYD-DOCKER", "RETURN"]


def test_a_drop_appended_behind_our_jump_is_put_before_it(wanted: Ruleset) -> None:
    without_return = DOCKER.replace("-A DOCKER-USER -j RETURN\n", "")
    after = applied(without_return, changes(wanted, read(without_return)))
    appended = after.replace("COMMIT\n*nat", "-A DOCKER-USER -s 10.5.7.7/32 -j DROP\nCOMMIT\n*nat", 1)
    appended = after.replace(
        "-A DOCKER-USER -m comment --comment overlayd -j OVERLAYD-DOCKER\n",
        "-A DOCKER-USER -m comment --comment overlayd -j OVERLAYD-DOCKER\n-A DOCKER-USER -s 10.5.7.7/32 -j DROP\n",
    )
    assert appended != after
    rules = read(applied(appended, changes(wanted, read(appended))))["filter"]["DOCKER-USER"]
    assert [rule.split()[-1] for rule in rules] == ["DROP", "DROP", "OVERLAYD-DOCKER"]


def test_raw_accept_is_put_back_first_when_docker_inserted_before_it(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, read(DOCKER)))
    pushed = after.replace("-A PREROUTING -d 10.5.52.2/32 ! -i docker0 -j DROP\n", "").replace(
        "*raw\n", "*raw\n-A PREROUTING -d 10.5.52.3/32 ! -i docker0 -j DROP\n"
    )
    assert pushed != after
    lines = changes(wanted, read(pushed))
    assert list(lines) == ["raw"]
    assert read(applied(pushed, lines))["raw"]["PREROUTING"][0].endswith("-j OVERLAYD-PREROUTING")


def test_without_docker_user_the_door_is_before_dockers_own_chains(wanted: Ruleset) -> None:
    old = "*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n-A FORWARD -o docker0 -j DOCKER\nCOMMIT\n"
    after = applied(old, changes(wanted, read(old)))
    targets = [rule.split()[-1] for rule in read(after)["filter"]["FORWARD"]]
    assert targets == ["OVERLAYD-DOCKER", "DOCKER", "OVERLAYD-FORWARD"]
    # Docker starts, and makes DOCKER-USER: the jump to our accept rules moves there.
    with_user = after.replace(":DOCKER -", ":DOCKER-USER - [0:0]\n:DOCKER -").replace(
        "-A FORWARD -o", "-A FORWARD -j DOCKER-USER\n-A FORWARD -o"
    )
    chains = read(applied(with_user, changes(wanted, read(with_user))))["filter"]
    assert [rule.split()[-1] for rule in chains["FORWARD"]] == ["DOCKER-USER", "DOCKER", "OVERLAYD-FORWARD"]
    assert [rule.split()[-1] for rule in chains["DOCKER-USER"]] == ["OVERLAYD-DOCKER"]


def test_forward_accepts_stand_before_a_closing_reject(wanted: Ruleset) -> None:
    closed = (
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i lo -j ACCEPT\n-A FORWARD -j REJECT --reject-with x\nCOMMIT\n"
    )
    rules = read(applied(closed, changes(wanted, read(closed))))["filter"]["FORWARD"]
    assert rules[-1].startswith("-j REJECT")
    assert rules[-2].endswith("OVERLAYD-FORWARD")


def test_a_changed_rule_rewrites_its_chain_only(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, read(DOCKER)))
    other = replace(DUAL, overlays=(replace(V4, subnet=IPv4Network("10.5.53.0/24")),))
    lines = changes(ruleset(other, 4), read(after))
    assert list(lines) == ["mangle", "raw", "filter", "nat"]
    assert not [line for body in lines.values() for line in body if line.startswith(("-D", "-I"))]
    without_masquerading = ruleset(replace(DUAL, masquerade=False), 4)
    assert list(changes(without_masquerading, read(after))) == ["nat"]


def test_duplicates_of_our_jump_go(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, read(DOCKER)))
    jump = "-A POSTROUTING -m comment --comment overlayd -j OVERLAYD-POSTROUTING\n"
    doubled = after.replace(jump, jump * 2)
    rules = read(applied(doubled, changes(wanted, read(doubled))))["nat"]["POSTROUTING"]
    assert len(rules) == 1


def test_nothing_of_ours_and_nothing_else_is_gone_when_nothing_is_wanted(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, read(DOCKER)))
    left = read(applied(after, changes(Ruleset(), read(after))))
    assert "OVERLAYD" not in repr(left)
    before = read(DOCKER)
    assert {table: left[table] for table in before} == before


def test_turning_masquerading_off_removes_its_chain(wanted: Ruleset) -> None:
    after = applied(DOCKER, changes(wanted, read(DOCKER)))
    off = replace(
        wanted,
        chains=tuple(chain for chain in wanted.chains if chain.table != "nat"),
        jumps=tuple(jump for jump in wanted.jumps if jump.table != "nat"),
    )
    left = read(applied(after, changes(off, read(after))))
    assert left["nat"] == {"POSTROUTING": ()}


def test_ipv6_has_the_same_rules_with_its_own_addresses() -> None:
    def text(wanted: DesiredRules, version: int) -> str:
        return repr(ruleset(wanted, version))

    translated = text(DUAL, 4).replace("10.5.0.0/16", "fd00:5::/48").replace("10.5.52.0/24", "fd00:5:0:52::/64")
    for four, six in (
        ("224.0.0.0/4", "ff00::/8"),
        ("-p icmp", "-p ipv6-icmp"),
        ("PEERS4", "PEERS6"),
        ("LEASED4", "LEASED6"),
    ):
        translated = translated.replace(four, six)
    assert text(DUAL, 6) == translated
    assert ruleset(replace(DUAL, overlays=(V6,)), 4) == ruleset(NOTHING, 6) == Ruleset()


def test_without_the_forward_rules_the_doors_stay() -> None:
    names = [(chain.table, chain.name) for chain in ruleset(replace(DUAL, forward=False), 4).chains]
    assert ("filter", "OVERLAYD-DOCKER") in names
    assert ("raw", "OVERLAYD-PREROUTING") in names
    assert ("filter", "OVERLAYD-FORWARD") not in names


def test_forward_accepts_nothing_of_strangers() -> None:
    (rules,) = (chain.rules for chain in ruleset(DUAL, 4).chains if chain.name == "OVERLAYD-FORWARD")
    assert [rule.replace("-m comment --comment overlayd ", "") for rule in rules] == [
        "-s 10.5.0.0/16 -d 10.5.52.0/24 -i overlay.1 -j ACCEPT",
        "-s 10.5.52.0/24 -i docker0 -j ACCEPT",
        "-d 10.5.52.0/24 -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ]


def test_beside_an_nftables_table_only_the_doors_are_left_and_the_hosts_own_ports() -> None:
    told = desired(overlays=[V4], devices=("overlay.1",), masquerade=True, daemon_json={"firewall-backend": "nftables"})
    chains = ruleset(told, 4, accepts_only=True).chains
    names = [chain.name for chain in chains]
    assert names == ["OVERLAYD-FORWARD", "OVERLAYD-DOCKER", "OVERLAYD-PREROUTING", "OVERLAYD-INPUT"]
    assert "DROP" not in repr([chain for chain in chains if chain.name != "OVERLAYD-INPUT"])


def test_dockers_nftables_get_their_mark_and_strangers_are_kept_out_after_the_peers() -> None:
    told = desired(
        overlays=[V4], devices=("overlay.1",), masquerade=False, daemon_json={"firewall-backend": "nftables"}
    )
    chains = {(chain.table, chain.name): chain.rules for chain in ruleset(told, 4).chains}
    comment = "-m comment --comment overlayd"
    assert chains["raw", "OVERLAYD-PREROUTING"] == (
        f"-s 10.5.52.0/24 -i overlay.1 {comment} -j DROP",
        f"-s 10.5.0.0/16 -d 10.5.52.0/24 -i overlay.1 {comment} -j ACCEPT",
        f"-i overlay.1 {comment} -j DROP",
    )
    begins = "-m conntrack ! --ctstate RELATED,ESTABLISHED"
    assert chains["mangle", "OVERLAYD-PREROUTING"] == (
        f"-i lo {comment} -j RETURN",
        f"-i overlay.1 {comment} -j RETURN",
        f"-s 10.5.52.0/24 -i docker0 {comment} -j RETURN",
        f"-s 10.5.52.0/24 {comment} -j DROP",
        f"-i docker0 -m addrtype --dst-type LOCAL {comment} -j RETURN",
        f"-d 10.5.0.0/16 -i docker0 {begins} {comment} -j DROP",
        f"-i docker0 {comment} -j RETURN",
        f"-s 10.5.52.0/24 {begins} {comment} -j DROP",
        f"-m set --match-set OVERLAYD-LEASED4 src {begins} {comment} -j DROP",
        f"-s 10.5.0.0/16 -i br-+ {begins} {comment} -j DROP",
        f"-i br-+ {comment} -j RETURN",
        f"-s 10.5.0.0/16 -m addrtype --dst-type LOCAL {comment} -j RETURN",
        f"-s 10.5.0.0/16 {begins} {comment} -j DROP",
        f"-d 10.5.0.0/16 -m addrtype --dst-type LOCAL {comment} -j RETURN",
        f"-d 10.5.0.0/16 {begins} {comment} -j DROP",
    )
    jumps = {(jump.table, jump.chain): jump.to for jump in ruleset(told, 4).jumps}
    assert jumps["mangle", "FORWARD"] == "OVERLAYD-FORWARD"


def test_whoever_asked_for_direct_routing_has_it_and_nobody_else() -> None:
    def closing(daemon_json: dict[str, object]) -> list[str]:
        told = desired(overlays=[V4], devices=("overlay.1",), masquerade=False, daemon_json=daemon_json)
        (rules,) = (chain.rules for chain in ruleset(told, 4).chains if chain.table == "mangle")
        return [rule.replace("-m comment --comment overlayd ", "") for rule in rules[-2:]]

    assert closing({"allow-direct-routing": True})[0] == "-d 10.5.52.0/24 -j RETURN"
    assert closing({"allow-direct-routing": False})[0] == "-d 10.5.0.0/16 -m addrtype --dst-type LOCAL -j RETURN"


def test_a_backends_own_packets_are_taken_from_peers_and_from_no_container() -> None:
    told = desired(
        overlays=[V4],
        devices=("overlay.1",),
        masquerade=False,
        listens=[
            Listening(version=4, protocol="udp", port=8472),
            Listening(version=4, protocol="4"),
            Listening(version=6, protocol="udp", port=8472),
            Listening(version=4, protocol="udp", port=51820, anyone=True),
        ],
        underlay="eth0",
    )
    written = {
        (chain.table, chain.name.removeprefix("OVERLAYD-")): [
            rule.replace("-m comment --comment overlayd ", "") for rule in chain.rules
        ]
        for chain in ruleset(told, 4).chains
    }
    # Where packets to any address of this host come together: broadcast, multicast and anycast are none of its own.
    here, passed_on = written["mangle", "INPUT"], written["mangle", "FORWARD"]
    peers = "--match-set OVERLAYD-PEERS4"
    for match in ("-p udp -m udp --dport 8472", "-p 4"):
        for bridge in ("docker0", "br-+"):
            assert f"-i {bridge} {match} -j DROP" in here
            assert f"-i {bridge} {match} -m set {peers} dst -j DROP" in passed_on
            assert f"-i {bridge} -o eth0 {match} -j DROP" in passed_on
        assert f"{match} -m set ! {peers} src -j DROP" in here
        assert f"{match} -m set ! {peers} src -m set {peers} dst -j DROP" in passed_on
    assert (len(here), len(passed_on)) == (6, 10)
    assert "match-set" not in repr(without_sets(ruleset(told, 4)))


def test_a_wires_bridge_that_is_named_as_dockers_are_is_none_of_them() -> None:
    def bridges(**words: object) -> tuple[str, ...]:
        return desired(overlays=[V4], devices=("overlay.1",), masquerade=False, **words).other_bridges  # type: ignore[arg-type]

    assert bridges(other_bridges=["br-0123456789ab"]) == ("br-+", "br-0123456789ab")
    assert bridges(other_bridges=["br-0123456789ab"], underlay="br-lan") == ("br-0123456789ab",)
    assert bridges(other_bridges=["br-0123456789ab"], wired_bridges=["br-ex"]) == ("br-0123456789ab",)


def test_ip_in_ip_is_recognised_by_every_name_it_has() -> None:
    ours = "-A OVERLAYD-PREROUTING -p {} -m comment --comment overlayd -j DROP"
    for name in ("4", "ipencap", "ipv4"):
        saved = "*raw\n:OVERLAYD-PREROUTING - [0:0]\n" + ours.format(name) + "\nCOMMIT\n"
        assert read(saved)["raw"]["OVERLAYD-PREROUTING"] == ("-p 4 -m comment --comment overlayd -j DROP",)


FOREIGN = st.sampled_from(
    [
        "-j DOCKER-USER",
        "-j DOCKER-FORWARD",
        "-j RETURN",
        "-j DROP",
        "-i lo -j ACCEPT",
        "-d 10.5.52.2/32 ! -i docker0 -j DROP",
        '-m comment --comment "not overlayd" -j ACCEPT',
        "-j REJECT --reject-with icmp-host-prohibited",
    ]
)
OURS = st.sampled_from(
    [
        f"-m comment --comment overlayd -j OVERLAYD-{name}"
        for name in ("FORWARD", "DOCKER", "PREROUTING", "POSTROUTING", "OLD")
    ]
    + ["-s 10.5.0.0/16 -m comment --comment overlayd -j ACCEPT"]
)
PLACES = [
    ("filter", "FORWARD"),
    ("filter", "DOCKER-USER"),
    ("raw", "PREROUTING"),
    ("nat", "POSTROUTING"),
    ("filter", "OVERLAYD-DOCKER"),
    ("filter", "OVERLAYD-OLD"),
]


@st.composite
def states(draw: st.DrawFn) -> str:
    """What iptables-save may print on a host where anybody has done anything."""
    tables: dict[str, list[str]] = {}
    for table, chain in draw(st.lists(st.sampled_from(PLACES), unique=True)):
        lines = tables.setdefault(table, [])
        lines.insert(0, f":{chain} - [0:0]")
        lines += [f"-A {chain} {rule}" for rule in draw(st.lists(FOREIGN | OURS, max_size=6))]
    return "".join("\n".join([f"*{table}", *lines, "COMMIT", ""]) for table, lines in tables.items())


@given(
    saved=states(),
    wanted=st.builds(
        desired,
        overlays=st.sampled_from([(V4,), (V4, V6), ()]),
        devices=st.sampled_from([(), ("eth0",), ("overlay.1", "eth0")]),
        masquerade=st.booleans(),
        forward=st.booleans(),
        daemon_json=st.sampled_from([{}, {"firewall-backend": "nftables"}]),
    ),
    accepts_only=st.booleans(),
)
def test_from_any_state_one_pass_is_enough_and_nobody_elses_rules_move(
    saved: str, wanted: DesiredRules, accepts_only: bool
) -> None:
    rules = ruleset(wanted, 4, accepts_only=accepts_only)
    before = read(saved)
    after = read(applied(saved, changes(rules, before)))
    assert changes(rules, after) == {}
    for chain in rules.chains:
        assert after[chain.table][chain.name] == chain.rules
    for table, chains in before.items():
        for name in chains:
            if not name.startswith("OVERLAYD-"):
                assert foreign(after[table][name]) == foreign(chains[name])
    for jump in rules.jumps:
        taken = jump if jump.instead is None or jump.chain in before.get(jump.table, {}) else jump.instead
        assert after[taken.table][taken.chain].count(taken.rule) == 1
        if taken.place.name == "FIRST":
            assert foreign(after[taken.table][taken.chain][: after[taken.table][taken.chain].index(taken.rule)]) == []
    kept = {(chain.table, chain.name) for chain in rules.chains}
    assert {(t, n) for t, chains in after.items() for n in chains if n.startswith("OVERLAYD-")} == kept


def foreign(rules: tuple[str, ...]) -> list[str]:
    """Those that are not ours."""
    return [rule for rule in rules if "comment overlayd" not in rule]

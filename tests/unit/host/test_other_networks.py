"""Several networks on one host: names that no two share, rules that no two move, and what they cannot share."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlayd.backends.listening import Listening
from overlayd.backends.wireguard import Wireguard
from overlayd.errors import ConfigError
from overlayd.firewall.chains import Ruleset, ruleset
from overlayd.firewall.diff import changes, read
from overlayd.firewall.rules import Overlay, desired
from overlayd.firewalld import keep
from overlayd.firewalld.desired import nothing
from overlayd.host import other_networks
from overlayd.lib import hostlock, marks
from overlayd.settings import CONFIG_FILE, Settings, config_file, load
from tests.unit.backends.test_backends import DUAL_ENVIRONMENT, ENVIRONMENT, vxlan
from tests.unit.firewall.test_chains import DOCKER, applied

NUMBERS = range(marks.HIGHEST_NUMBER + 1)


@pytest.fixture(autouse=True)
def back_to_0() -> Iterator[None]:
    """This process is about network 0 again."""
    yield
    marks.use(0)


def devices(number: int) -> set[str]:
    """The devices that the backends of a network may have."""
    marks.use(number)
    found = {marks.ours().tun, marks.ours().device(".ipip")}
    for vni in (1, 0x10, 999_999, 9_999_999, 16_777_215):
        found |= {vxlan(VNI=vni).device(version) for version in (4, 6)}
    for mode in ("separate", "auto"):
        found |= set(Wireguard.from_config({"Mode": mode}, DUAL_ENVIRONMENT).devices)
    return found


def test_devices_of_no_two_networks_have_one_name() -> None:
    made = {number: devices(number) for number in NUMBERS}
    assert made[0] >= {"overlay0", "overlay.ipip", "overlay.1", "overlay-v6.1", "overlay-wg", "overlay-wg-v6"}
    for number, mine in made.items():
        assert len(mine) == 14
        assert max(map(len, mine)) <= 15
        for other in NUMBERS:
            assert {marks.of(other).names(name) for name in mine} == {other == number}
    assert not any(marks.of(number).names(name) for number in NUMBERS for name in ("overlay", "overlayfs", "eth0"))


def test_network_0_has_the_marks_that_it_always_had() -> None:
    ours = marks.of(0)
    assert (ours.name, ours.route_protocol, ours.chains, ours.flag) == ("overlayd", 157, "OVERLAYD-", "")
    assert ours.comment == "-m comment --comment overlayd"
    assert ours.sets == ("OVERLAYD-PEERS4", "OVERLAYD-PEERS6", "OVERLAYD-LEASED4", "OVERLAYD-LEASED6")
    assert len({marks.of(number).name for number in NUMBERS}) == len(NUMBERS)
    assert [marks.network_of_route(marks.of(number).route_protocol) for number in NUMBERS] == [*NUMBERS]


def wanted(number: int) -> Ruleset:
    overlay = Overlay(network=IPv4Network(f"10.{number}.0.0/16"), subnet=IPv4Network(f"10.{number}.1.0/24"))
    return ruleset(desired(overlays=[overlay], devices=(marks.ours().device(".1"),), masquerade=True), 4)


@pytest.mark.parametrize("order", [*itertools.permutations((0, 1, 2))])
@pytest.mark.parametrize("saved", [DOCKER, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\nCOMMIT\n", ""])
def test_no_daemon_moves_the_rules_of_another(order: tuple[int, ...], saved: str) -> None:
    there = saved
    for _round in range(2):
        for number in order:
            marks.use(number)
            there = applied(there, changes(wanted(number), read(there)))
    for number in order:
        marks.use(number)
        assert changes(wanted(number), read(there)) == {}
    kept = read(there)["mangle"]["PREROUTING"]
    assert [marks.network_of_jump(rule) for rule in kept] == [0, 1, 2]
    # And one that goes takes nothing else along.
    marks.use(1)
    left = applied(there, changes(Ruleset(), read(there)))
    assert "overlayd1" not in left.lower()
    for number in (0, 2):
        marks.use(number)
        assert changes(wanted(number), read(left)) == {}


def test_another_network_has_folders_a_prefix_and_a_file_of_its_own() -> None:
    found, zero = load({"network_number": "3"}, {}, None), load({}, {}, None)
    assert (found.run_dir, found.state_dir) == (Path("/run/overlayd3"), Path("/var/lib/overlayd3"))
    assert found.etcd_prefix == "/coreos.com/network3"
    assert (zero.run_dir, zero.etcd_prefix) == (Path("/run/overlayd"), "/coreos.com/network")
    given = load({"network_number": "3", "run_dir": "/run/mine", "etcd_prefix": "/mine"}, {}, None)
    assert (given.run_dir, given.etcd_prefix) == (Path("/run/mine"), "/mine")
    assert config_file({}, {}) == config_file({"network_number": "0"}, {}) == CONFIG_FILE
    assert config_file({"network_number": "3"}, {}) == Path(f"{CONFIG_FILE}.3")
    assert config_file({}, {"OVERLAYD_NETWORK_NUMBER": "4"}) == Path(f"{CONFIG_FILE}.4")
    assert config_file({"network_number": "4", "config_file": "/x"}, {}) == Path("/x")
    for bad in ("10", "-1", "one", "../x", "01"):
        assert config_file({"network_number": bad}, {}) == CONFIG_FILE
        with pytest.raises(ConfigError, match="--network-number"):
            load({"network_number": bad}, {}, None)


OWN = other_networks.HostNetwork(
    number=0,
    etcd_endpoints=("http://192.0.2.1:2379",),
    etcd_prefix="/a",
    folders=("/run/a", "/var/lib/a", "/run/a/subnet.env"),
    networks=(IPv4Network("10.0.0.0/16"),),
    listens=(Listening(version=4, protocol="udp", port=8472),),
)
OTHER = replace(OWN, number=1, etcd_prefix="/b", networks=(IPv4Network("10.1.0.0/16"),), listens=())
PROTOCOL_4 = (Listening(version=4, protocol="4"),)


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (OWN, OTHER, []),
        (OWN, replace(OTHER, listens=OWN.listens), ["udp port 8472 is network 1's"]),
        (replace(OWN, listens=PROTOCOL_4), replace(OTHER, listens=PROTOCOL_4), ["IP protocol 4 is network 1's"]),
        (OWN, replace(OTHER, networks=(IPv4Network("10.0.128.0/17"),)), ["10.0.0.0/16 overlaps 10.0.128.0/17"]),
        (OWN, replace(OWN, number=1), ["etcd-prefix /a is that of network 1"]),
        (OWN, replace(OTHER, etcd_prefix="/a", etcd_endpoints=("http://192.0.2.2:2379",)), []),
    ],
)
def test_what_two_networks_cannot_share(
    mine: other_networks.HostNetwork, theirs: other_networks.HostNetwork, said: list[str]
) -> None:
    found = other_networks.conflicts(mine, [theirs])
    assert len(found) == len(said)
    assert all(words in one for words, one in zip(said, found, strict=True))


def test_notes_are_of_this_namespace_and_a_bad_one_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostlock, "FOLDER", tmp_path)
    monkeypatch.setattr("overlayd.lib.files.open_to_others", lambda _path: None)
    other_networks.note(OTHER)
    (path,) = tmp_path.iterdir()
    assert other_networks.others() == (OTHER,)
    marks.use(1)
    assert other_networks.others() == ()
    assert list(other_networks.forget()) == [str(path)]
    marks.use(0)
    other_networks.note(OTHER)
    document = json.loads(path.read_text())
    for bad in ("", "[]", "[" * 10_000, json.dumps({**document, "namespace_cookie": -1}), '{"number": 1}'):
        path.write_text(bad)
        assert other_networks.others() == ()


def test_the_command_that_copies_firewalls_files_for_another_network_does(tmp_path: Path) -> None:
    shipped, own = Path(__file__).parents[3] / "rpm/firewalld", tmp_path / "own"
    for name in ("policies", "ipsets"):
        (own / name).mkdir(parents=True)
    marks.use(1)
    text = keep.copy_command().removesuffix(" && firewall-cmd --reload")
    assert text != keep.copy_command()
    text = text.replace("/usr/lib/firewalld", str(shipped)).replace("/etc/firewalld", str(own))
    subprocess.run(["sh", "-ec", text], check=True)
    assert {path.stem for path in own.glob("*/*.xml")} == {*nothing().policies, *nothing().ipsets}
    assert not any(re.search("overlayd-", path.read_text()) for path in own.glob("*/*.xml"))


@pytest.mark.parametrize(
    ("words", "of_2"),
    [
        ("systemctl restart overlayd", "systemctl restart overlayd@2"),
        (
            "systemctl start overlayd && systemctl restart docker",
            "systemctl start overlayd@2 && systemctl restart docker",
        ),
        ("journalctl -u overlayd -n 50", "journalctl -u overlayd@2 -n 50"),
        ("see `overlayd status`", "see `overlayd status --network-number=2`"),
        ("overlayd was stopped", "overlayd was stopped"),
    ],
)
def test_a_remedy_is_for_the_network_that_it_is_about(words: str, of_2: str) -> None:
    assert (marks.of(0).adapt_commands(words), marks.of(2).adapt_commands(words)) == (words, of_2)


def test_backends_of_a_network_are_made_with_its_devices() -> None:
    marks.use(2)
    assert vxlan().devices == ("overlay2.1",)
    assert Wireguard.from_config({}, ENVIRONMENT).devices == ("overlay2-wg",)
    assert Settings(network_number=2).network_number == 2

"""flanneld's options as ours: every way to write them, what has no counterpart, and settings that are there already."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from overlayd import settings
from overlayd.errors import ConfigError
from overlayd.flannel.host import command_line
from overlayd.flannel.options import merge, parse, translate
from overlayd.lib import envfile

# With masquerading on, as ours is by default, so that a test sees only what it is about.
ON = "--ip-masq "


def translated(words: str, **variables: str) -> dict[str, str]:
    return dict(translate(variables, shlex.split(words)).settings)


@pytest.mark.parametrize("words", ["-iface=eth1", "--iface=eth1", "-iface eth1", "--iface eth1"])
def test_options_are_read_however_go_lets_one_write_them(words: str) -> None:
    assert translated(ON + words) == {"OVERLAYD_IFACE": "eth1"}


def test_a_switch_takes_no_word_after_it() -> None:
    assert list(parse(["-ip-masq", "true", "-iface=eth1"])) == [("ip-masq", "true")]
    assert list(parse(["--ip-masq", "--iface", "eth1", "--", "-x"])) == [("ip-masq", "true"), ("iface", "eth1")]


def test_options_that_may_be_given_again_are_a_list_and_of_others_the_last_counts() -> None:
    words = "--iface=eth1 --iface=eth2 --iface-regex='^10\\.1\\.' --etcd-prefix=/a --etcd-prefix=/b"
    assert translated(ON + words) == {
        "OVERLAYD_IFACE": "eth1,eth2",
        "OVERLAYD_IFACE_REGEX": "^10\\.1\\.",
        "OVERLAYD_ETCD_PREFIX": "/b",
    }


def test_expressions_that_are_given_again_are_one_in_the_file() -> None:
    words = "--iface-regex='^eth[0-9]{1,2}$' --iface-regex='^10\\.1\\.'"
    (found,) = translated(ON + words).values()
    assert found == "(?:^eth[0-9]{1,2}$)|(?:^10\\.1\\.)"
    assert settings.load({}, {"OVERLAYD_IFACE_REGEX": found}, None).iface_regex == (found,)


def test_a_switch_that_nobody_knows_is_named() -> None:
    found = translate({}, ["-frobnicate", "--public-ip=", "-iface=eth1", "--extra"])
    assert found.settings == {"OVERLAYD_IFACE": "eth1", "OVERLAYD_IP_MASQ": "false"}
    unknown = [remark for remark in found.remarks if "no such option" in remark]
    assert unknown == ["--frobnicate: overlayd has no such option", "--extra: overlayd has no such option"]


def test_what_the_file_says_in_a_form_of_systemds_stands(tmp_path: Path) -> None:
    text = "OVERLAYD_IFACE = eth9\nOVERLAYD_ETCD_ENDPOINTS=http://198.18.0.1:2379,\\\nhttp://198.18.0.2:2379\n"
    wanted = {"OVERLAYD_IFACE": "eth1", "OVERLAYD_ETCD_ENDPOINTS": "http://198.18.0.1:2379"}
    after, kept = merge(text, wanted, source="x")
    assert after == text
    assert kept["OVERLAYD_IFACE"] == ("eth9", "eth1")


def test_the_nearest_source_wins_as_it_does_for_flannel() -> None:
    variables = {"FLANNELD_ETCD_PREFIX": "/env", "FLANNELD_IFACE": "eth9", "FLANNEL_ETCD_PREFIX": "/file"}
    assert translated(ON, **variables) == {"OVERLAYD_ETCD_PREFIX": "/file", "OVERLAYD_IFACE": "eth9"}
    assert translated(ON + "--etcd-prefix /word", **variables)["OVERLAYD_ETCD_PREFIX"] == "/word"


def test_older_names_of_the_centos_package_are_read() -> None:
    found = translated(ON, FLANNEL_ETCD="http://192.0.2.1:2379", FLANNEL_ETCD_KEY="/atomic.io/network")
    assert found == {"OVERLAYD_ETCD_ENDPOINTS": "http://192.0.2.1:2379", "OVERLAYD_ETCD_PREFIX": "/atomic.io/network"}


def test_what_is_the_default_here_is_not_written() -> None:
    assert translated(ON + "--etcd-prefix=/coreos.com/network --iptables-resync=5 --healthz-port 0") == {}


def test_every_option_of_flannels_that_we_have_is_taken_over() -> None:
    words = (
        "--etcd-cafile=/c --etcd-certfile=/d --etcd-keyfile=/e --etcd-username=u --etcd-password=p "
        "--public-ip=192.0.2.9 --public-ipv6=2001:db8::9 "
        "--iface-can-reach=192.0.2.1 --subnet-file=/run/x --subnet-lease-renew-margin=30 "
        "--iptables-resync=9 --iptables-forward-rules=false --ip-blackhole-route --healthz-ip=127.0.0.1 "
        "--healthz-port=8089"
    )
    found = translate({}, shlex.split(ON + words))
    assert found.remarks == ()
    assert found.settings == {
        "OVERLAYD_ETCD_CAFILE": "/c",
        "OVERLAYD_ETCD_CERTFILE": "/d",
        "OVERLAYD_ETCD_KEYFILE": "/e",
        "OVERLAYD_ETCD_USERNAME": "u",
        "OVERLAYD_ETCD_PASSWORD": "p",
        "OVERLAYD_PUBLIC_IP": "192.0.2.9",
        "OVERLAYD_PUBLIC_IPV6": "2001:db8::9",
        "OVERLAYD_IFACE_CAN_REACH": "192.0.2.1",
        "OVERLAYD_SUBNET_FILE": "/run/x",
        "OVERLAYD_SUBNET_LEASE_RENEW_MARGIN": "30",
        "OVERLAYD_RESYNC_S": "9",
        "OVERLAYD_IPTABLES_FORWARD_RULES": "false",
        "OVERLAYD_IP_BLACKHOLE_ROUTE": "true",
        "OVERLAYD_HEALTHZ_IP": "127.0.0.1",
        "OVERLAYD_HEALTHZ_PORT": "8089",
    }
    assert settings.load({}, found.settings, None).healthz_port == 8089


@pytest.mark.parametrize(
    ("words", "remark"),
    [
        ("--kube-api-url=http://x", "--kube-api-url=http://x: Kubernetes'"),
        ("-remote=192.0.2.5:8080", "-remote=192.0.2.5:8080: flannel's own server"),
        ("-v 4", "--v=4: overlayd logs to the journal"),
        ("--made-up 7", "--made-up=7: overlayd has no such option"),
        ("--subnet-file=/run/flannel/subnet.env", "overlayd writes /run/overlayd/subnet.env"),
    ],
)
def test_what_has_no_counterpart_is_named_with_the_reason(words: str, remark: str) -> None:
    (found,) = translate({}, shlex.split(ON + words)).remarks
    assert remark in found


def test_subnets_from_kubernetes_cannot_be_followed() -> None:
    assert translate({}, ["--kube-subnet-mgr"]).refusals
    assert not translate({}, ["--kube-subnet-mgr=false"]).refusals
    assert not translate({}, ["--kube-subnet-mgr=false"]).remarks[1:]


def test_one_network_of_many_is_a_prefix_and_more_are_refused() -> None:
    assert translated(f"{ON} --networks=blue --etcd-prefix=/n") == {"OVERLAYD_ETCD_PREFIX": "/n/blue"}
    assert translate({}, ["--networks=blue,red"]).refusals


def test_masquerading_stays_whose_it_was() -> None:
    # flannel's default is off.
    off = translate({}, [])
    assert off.settings == {"OVERLAYD_IP_MASQ": "false"}
    assert "leaves masquerading to docker" in off.remarks[0]
    # What runs counts more than what is written.
    assert translate({}, [], masquerades=True).settings == {}
    assert translate({}, ["--ip-masq"], masquerades=False).settings == {"OVERLAYD_IP_MASQ": "false"}


def test_the_port_of_an_ancient_etcd_is_explained() -> None:
    both = translate({}, shlex.split(f"{ON} --etcd-endpoints=http://192.0.2.1:4001,http://192.0.2.1:2379"))
    assert both.settings == {"OVERLAYD_ETCD_ENDPOINTS": "http://192.0.2.1:2379"}
    assert "left out" in both.remarks[0]
    alone = translate({}, shlex.split(f"{ON} --etcd-endpoints=http://192.0.2.1:4001"))
    assert alone.settings == {"OVERLAYD_ETCD_ENDPOINTS": "http://192.0.2.1:4001"}
    assert "is it at 2379?" in alone.remarks[0]
    # flannel's own default is ours, less the old port.
    assert translated(f"{ON} --etcd-endpoints=http://127.0.0.1:4001,http://127.0.0.1:2379") == {}


def test_a_value_that_is_none_here_names_the_setting_and_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"OVERLAYD_ETCD_PREFIX is '\.'") as caught:
        translate({}, ["--etcd-prefix=."])
    assert "allowed: a path" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/usr/bin/flanneld-start $FLANNEL_OPTIONS", ("-iface=eth1", "-v=2")),
        ("-/usr/bin/flanneld --ip-masq $FLANNEL_OPTIONS", ("--ip-masq", "-iface=eth1", "-v=2")),
        ("/opt/bin/flanneld -etcd-endpoints=${E} $NONE", ("-etcd-endpoints=http://x:2379",)),
        # A wrapper of somebody's own: what the package's variable says is the best guess.
        ("/usr/local/bin/start-overlay", ("-iface=eth1", "-v=2")),
    ],
)
def test_the_units_command_line_is_expanded_as_systemd_does(command: str, words: tuple[str, ...]) -> None:
    variables = {"FLANNEL_OPTIONS": "-iface=eth1 -v=2", "E": "http://x:2379"}
    assert command_line([command], variables) == words
    assert command_line([], variables) == ("-iface=eth1", "-v=2")


def test_settings_are_added_and_never_changed(tmp_path: Path) -> None:
    before = "# mine\nOVERLAYD_IFACE=eth7\n#OVERLAYD_ETCD_PREFIX=/x\nOVERLAYD_HEALTHZ_PORT="
    wanted = {"OVERLAYD_IFACE": "eth1", "OVERLAYD_ETCD_PREFIX": "/n", "OVERLAYD_ETCD_PASSWORD": "a 'b' \\ c"}
    after, kept = merge(before, wanted, source="flanneld")
    assert after.startswith(f"{before}\n")
    assert kept == {"OVERLAYD_IFACE": ("eth7", "eth1")}
    path = tmp_path / "overlayd"
    path.write_text(after)
    found = settings.load({}, {}, path)
    assert (found.iface, found.etcd_prefix, found.etcd_password) == (("eth7",), "/n", "a 'b' \\ c")
    assert merge(after, wanted, source="flanneld") == (after, kept)


@pytest.mark.parametrize("written", ["coreos.com/network", "/", "/a//b"])
def test_a_prefix_in_any_spelling_of_flannels_is_taken_over(written: str) -> None:
    assert translated(ON, FLANNEL_ETCD_PREFIX=written) == {"OVERLAYD_ETCD_PREFIX": written}


@pytest.mark.parametrize("end", ["", "\n", " \\", " \\\n"], ids=repr)
def test_what_is_added_is_read_back_whatever_the_last_line_was(end: str) -> None:
    text, _kept = merge(f"OVERLAYD_RESYNC_S=3{end}", {"OVERLAYD_IFACE": "eth1"}, source="x")
    assert {key: value.strip() for _line, key, value in envfile.read(text)} == {
        "OVERLAYD_RESYNC_S": "3",
        "OVERLAYD_IFACE": "eth1",
    }

"""Settings: which source wins, and what a wrong one says."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from overlayd import cli
from overlayd.errors import ConfigError
from overlayd.settings import Settings, add_flags, load, read_file, with_two_dashes


def flags(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(words))


def test_nothing_given_means_the_defaults() -> None:
    assert load(flags(), {}, None) == Settings()


def test_what_is_nearer_to_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "overlayd"
    file.write_text("OVERLAYD_ETCD_PREFIX=/file\nOVERLAYD_IFACE=eth3\n")
    environment = {"FLANNELD_ETCD_PREFIX": "/flannel", "OVERLAYD_ETCD_PREFIX": "/own"}
    assert load(flags("--etcd-prefix", "/flag"), environment, file).etcd_prefix == "/flag"
    assert load(flags(), environment, file).etcd_prefix == "/own"
    del environment["OVERLAYD_ETCD_PREFIX"]
    assert load(flags(), environment, file).etcd_prefix == "/flannel"
    assert load(flags(), {}, file).etcd_prefix == "/file"
    assert load(flags(), {}, file).iface == ("eth3",)


def test_lists_come_comma_separated_or_repeated() -> None:
    assert load(flags("--iface", "eth0,eth1", "--iface", "eth2"), {}, None).iface == ("eth0", "eth1", "eth2")


def test_flags_may_be_bare_as_flannels_are() -> None:
    assert load(flags("--ip-masq"), {"OVERLAYD_IP_MASQ": "false"}, None).ip_masq is True
    assert load(flags("--ip-masq=false"), {}, None).ip_masq is False


def test_the_firewall_is_chosen_by_name_and_the_yes_and_no_of_old_still_count() -> None:
    for words, choice in (
        (["--firewall=nftables"], "nftables"),
        (["--no-firewall"], "none"),
        (["--firewall=false"], "none"),
        (["--firewall"], "auto"),
        ([], "iptables"),
    ):
        assert load(flags(*words), {"OVERLAYD_FIREWALL": "iptables"}, None).firewall == choice
    assert load(flags(), {"OVERLAYD_FIREWALL": "true"}, None).firewall == "auto"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("OVERLAYD_IP_MASQ", "perhaps"),
        ("OVERLAYD_PUBLIC_IP", "eth0"),
        ("OVERLAYD_ETCD_PREFIX", "."),
        ("OVERLAYD_RESYNC_S", "-1"),
        ("OVERLAYD_RESYNC_S", "nan"),
        ("OVERLAYD_LEASE_TTL_S", "1"),
        ("OVERLAYD_DOCKER_RESTART", "sometimes"),
        ("OVERLAYD_FIREWALL", "ufw"),
    ],
)
def test_a_bad_value_names_the_key_the_value_and_what_is_allowed(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        load(flags(), {key: value}, None)
    assert repr(value) in str(caught.value)
    assert "allowed:" in str(caught.value)


def test_a_misspelt_key_in_the_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "overlayd"
    file.write_text("# comment\nOVERLAYD_ETCD_ENDPOINT=http://198.18.0.1:2379\n")
    with pytest.raises(ConfigError, match="line 2: OVERLAYD_ETCD_ENDPOINT is not a setting"):
        read_file(file)


# What systemd makes of it; None where it drops a line without a word, or its versions differ.
FORMS: list[tuple[str, str | None]] = [
    ("OVERLAYD_IFACE = eth1", "eth1"),
    ("  OVERLAYD_IFACE\t=\teth1 \t", "eth1"),
    ("OVERLAYD_IFACE=eth1,\\\neth2", "eth1,eth2"),
    ('OVERLAYD_IFACE="eth1,\\\neth2"', "eth1,eth2"),
    ("OVERLAYD_IFACE='eth1'", "eth1"),
    ('OVERLAYD_IFACE="eth1" ,"eth2"', 'eth1,"eth2"'),
    ("OVERLAYD_IFACE=e\"th'1", "e\"th'1"),
    ("OVERLAYD_IFACE=^eth[0-9]\\ \\t$", "^eth[0-9] t$"),
    ('OVERLAYD_IFACE="^eth\\d \\$x"', "^eth\\d $x"),
    ("OVERLAYD_IFACE='a\nb'", "a\nb"),
    ("# a\\\n# b\nOVERLAYD_IFACE=eth1", "eth1"),
    ("OVERLAYD_IFACE=eth0\r\nOVERLAYD_IFACE=eth1", "eth1"),
    ("OTHER X=1\nOVERLAYD_IFACE=eth1#", "eth1#"),
    ("export OVERLAYD_IFACE=eth1", None),
    ("\ufeffOVERLAYD_IFACE=eth1", None),
    ("OVERLAYD_IFACE='eth1", None),
    ('OVERLAYD_IFACE="eth1\\"', None),
    ("OVERLAYD_IFACE", None),
    ("# a\\\nOVERLAYD_IFACE=eth1", None),
]


@pytest.mark.parametrize(("text", "value"), FORMS)
def test_the_file_is_read_as_systemd_reads_it_or_the_line_is_named(
    tmp_path: Path, text: str, value: str | None
) -> None:
    file = tmp_path / "overlayd"
    file.write_text(f"{text}\n")
    if value is not None:
        assert read_file(file)["OVERLAYD_IFACE"] == value
    else:
        with pytest.raises(ConfigError, match=" line 1"):
            read_file(file)


def test_a_byte_order_mark_and_an_export_are_told_with_what_helps(tmp_path: Path) -> None:
    file = tmp_path / "overlayd"
    for text, said in (("\ufeffOVERLAYD_IFACE=x", "byte order mark"), ("export OVERLAYD_IFACE=x", "leave it out")):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load({}, {}, file)
        assert said in str(caught.value.hint)


def test_a_comma_is_a_part_of_an_expression_and_the_flag_repeats(tmp_path: Path) -> None:
    expression, file = "^(eth|ens)[0-9]{1,2}$", tmp_path / "overlayd"
    file.write_text(f"OVERLAYD_IFACE_REGEX={expression}\n")
    assert load(flags(), {}, file).iface_regex == (expression,)
    assert load(flags(), {"FLANNELD_IFACE_REGEX": expression}, None).iface_regex == (expression,)
    words = ("--iface-regex", expression, "--iface-regex=^10\\.")
    assert load(flags(*words), {}, None).iface_regex == (expression, "^10\\.")


@pytest.mark.parametrize(
    "words",
    [
        ["-etcd-endpoints=http://198.18.0.1:2379", "-iface", "eth1", "-ip-masq", "-v"],
        ["--etcd-endpoints", "http://198.18.0.1:2379", "-iface=eth1", "-ip-masq=true", "--verbose"],
    ],
)
def test_settings_have_one_dash_or_two_as_flannels_have(words: list[str]) -> None:
    options = cli.parser().parse_args(with_two_dashes(["check", *words]))
    found = load(vars(options), {"OVERLAYD_IP_MASQ": "false"}, None)
    assert (found.etcd_endpoints, found.iface, found.ip_masq) == (("http://198.18.0.1:2379",), ("eth1",), True)
    assert options.verbose


def test_words_that_are_no_settings_stay_as_they_are() -> None:
    words = ["docker-opts", "-d", "/x", "-i", "-k", "KEY", "-x", "--", "-iface"]
    assert with_two_dashes(words) == words


def test_the_password_is_never_shown() -> None:
    assert "secret" not in repr(load(flags(), {"OVERLAYD_ETCD_PASSWORD": "secret"}, None))


def test_a_password_is_refused_as_a_flag_and_taken_from_everywhere_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/proc/PID/cmdline") as caught:
        load(flags("--etcd-password", "secret"), {}, None)
    assert "set etcd-password-file instead" in str(caught.value)
    assert "secret" not in str(caught.value).replace("shows a secret", "")
    file = tmp_path / "overlayd"
    file.write_text("OVERLAYD_ETCD_PASSWORD=secret\n")
    assert load(flags(), {}, file).etcd_password == "secret"
    assert load(flags(), {"FLANNELD_ETCD_PASSWORD": "secret"}, None).etcd_password == "secret"
    assert load(flags("--etcd-password-file", "/secret"), {}, None).etcd_password_file == "/secret"


def test_a_line_that_is_no_setting_is_not_repeated(tmp_path: Path) -> None:
    # A password with a line break in it, or without its key.
    file = tmp_path / "overlayd"
    file.write_text("OVERLAYD_ETCD_PASSWORD=a\nhunter2\n")
    with pytest.raises(ConfigError, match="line 2 is not KEY=value") as caught:
        read_file(file)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(flags(), {}, tmp_path / "none", file_required=True)


def test_a_file_that_only_root_may_read_does_not_keep_others_from_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "overlayd"
    file.write_text("")

    def refuse(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert cli.main(["config", "get", "--config-file", str(file)]) == 4
    assert "run this as root" in capsys.readouterr().err
    # The status itself is what cannot be read now, not the settings.
    assert cli.main(["status", "--config-file", str(file), "--run-dir", str(tmp_path)]) == 1
    assert "status.json" in capsys.readouterr().err


def test_a_password_file_given_as_a_flag_is_nearer_than_a_password_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "overlayd"
    file.write_text("OVERLAYD_ETCD_USERNAME=overlayd\nOVERLAYD_ETCD_PASSWORD=secret\n")
    found = load({"etcd_password_file": "/etc/x", "etcd_username": "overlayd-admin"}, {}, file)
    assert (found.etcd_password, found.etcd_password_file) == (None, "/etc/x")
    assert load({}, {}, file).etcd_password == "secret"


# What `path.Join(prefix, "config")` gives in Go 1.26, as flannel asks for it.
@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("coreos.com/network", "coreos.com/network/config"),
        ("/", "/config"),
        ("///", "/config"),
        ("/a//b", "/a/b/config"),
        ("//a", "/a/config"),
        ("/a/../b", "/b/config"),
        ("..", "../config"),
        ("/..", "/config"),
        ("/a/b/", "/a/b/config"),
        ("a/./b", "a/b/config"),
    ],
)
def test_a_prefix_leads_to_flannels_keys(prefix: str, key: str) -> None:
    assert f"{load({'etcd_prefix': prefix}, {}, None).etcd_prefix}/config" == key


@pytest.mark.parametrize("prefix", [".", "a/..", "/a\n"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--etcd-prefix is"):
        load({"etcd_prefix": prefix}, {}, None)


@pytest.mark.parametrize("between", [",", " ", ";", ", ", " ; "])
def test_endpoints_may_stand_apart_by_whatever_people_write(between: str) -> None:
    found = load({}, {"OVERLAYD_ETCD_ENDPOINTS": f"http://a:1{between}http://b:2"}, None)
    assert found.etcd_endpoints == ("http://a:1", "http://b:2")

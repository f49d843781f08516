"""Whatever is in a file, readers raise only the exception that their docstring names."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overlayd.backends import keyfile, ledger
from overlayd.docker import options as docker_options
from overlayd.docker import service as docker_service
from overlayd.docker.dockerd_config import DockerdConfig, read_daemon_json, read_dockerd_config
from overlayd.errors import CommandFailed, ConfigError, OverlaydError
from overlayd.firewall import table
from overlayd.flannel.host import look
from overlayd.flannel.options import Translation, translate
from overlayd.leases import previous_lease
from overlayd.leases.held_lease import PreviousLease
from overlayd.leases.subnets import Subnets
from overlayd.lib import envfile, unit_files
from overlayd.monitoring import status_file
from overlayd.settings import Settings, load, read_file
from tests.unit.fuzz.documents import damaged, documents, encoded, joined, nested, raw, values

WORDS = st.sampled_from(
    [
        *("10.5.2.0/24", "10.5.2.1/24", "fd42:0:0:2::/64", "fd42:0:0:2::1/64", "fd42::%eth0/64", "0.0.0.0/0", "x", ""),
        *("10.5.2.1", "10.5.2.0/33", "'", '"', "a b", "$X", "\\", "1500", "true", "\0", "\x1b[2J", "²", "9" * 5000),
    ]
)
# All examples of a test share the fixture's folder, so the file is written again for each.
anew = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assignments(keys: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """Files of KEY=value lines."""
    key = st.sampled_from(keys) | st.text(max_size=4)
    line = st.builds(
        "{}{}{}".format, key, st.sampled_from(["=", "=", "=", " = ", "", "=="]), WORDS | st.text(max_size=6)
    )
    whole = st.lists(line, max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))
    return whole | damaged(whole) | st.binary(max_size=60)


def records(keys: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """JSON documents with these keys, and bytes."""
    good = WORDS.map(json.dumps)
    some = documents(keys, good)
    return some | damaged(some) | raw()


def only(kind: type[Exception], call: Callable[[], Any]) -> Any:
    """The result of a call; None if it raises the one kind of error that it may raise."""
    try:
        return call()
    except kind:
        return None


@given(
    records(("subnet", "subnet6", "etcd_lease_id")),
    assignments(("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET", "FLANNEL_MTU")),
)
@example(b'{"etcd_lease_id":Infinity}', b"")
@example(b"[" * 100_000, b"")
@anew
def test_any_record_of_a_previous_lease_is_read_or_ignored(tmp_path: Path, record: bytes, variables: bytes) -> None:
    (tmp_path / previous_lease.LEASE_FILE).write_bytes(record)
    (tmp_path / "subnet.env").write_bytes(variables)
    found = previous_lease.recall(tmp_path, tmp_path / "subnet.env")
    assert isinstance(found, PreviousLease)
    assert isinstance(found.subnets, Subnets)
    previous_lease.remember(tmp_path, found)
    again = previous_lease.recall(tmp_path, tmp_path / "none")
    assert again.subnets == found.subnets
    assert again.etcd_lease_id == found.etcd_lease_id


STATUS_KEYS = ("state", "pid", "version", "peers", "skipped", "etcd_endpoints", "docker_problems", "problems", "subnet")
GOOD_STATUS = (
    '"state":"ready","pid":1,"version":"1","skipped":[["a","b"]],"etcd_endpoints":[],"docker_problems":[],"problems":[]'
)


@given(
    records(STATUS_KEYS)
    | (values() | nested()).map(lambda peers: encoded("{" + GOOD_STATUS + f',"peers":{peers}' + "}"))
    | st.lists(st.tuples(st.sampled_from(STATUS_KEYS).map(json.dumps), values()), max_size=3).map(
        lambda members: encoded("{" + GOOD_STATUS + ',"peers":[],' + joined(members)[1:])
    )
)
@anew
def test_any_status_file_is_read_or_reported_as_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / status_file.FILE).write_bytes(content)
    found = only(OverlaydError, lambda: status_file.read(tmp_path))
    assert found is None or isinstance(found, status_file.Status)


BOTH = docker_options.desired_options(
    Subnets(v4=IPv4Network("10.5.52.0/24"), v6=IPv6Network("fd42:0:0:7::/64")), 1450, we_masquerade=True
)


@given(
    records(
        (
            *("bip", "mtu", "ip-masq", "ipv6", "bridge", "fixed-cidr-v6", "iptables", "firewall-backend"),
            *("fixed-cidr", "default-gateway", "default-gateway-v6", "bip6"),
        )
    )
)
@anew
def test_any_daemon_json_gives_settings_or_a_problem(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "daemon.json"
    path.write_bytes(content)
    found, problems = read_daemon_json(path)
    assert isinstance(found, dict)
    assert not (found and problems)
    want = docker_options.desired_options(Subnets(), 1450, we_masquerade=True)
    told = DockerdConfig(daemon_json=found)
    given, conflicts = docker_options.choose_flags(want, told)
    assert len(given) + len(conflicts) <= len(want.options())
    # dockerd refuses an option that is in both.
    assert not {flag.removeprefix("--").partition("=")[0] for flag in given} & set(found)
    for text in (*given, *conflicts, *problems, *docker_options.contradictions(BOTH, told)):
        assert text.isprintable(), text
        assert len(text) < 500


@given(records(("boot_id", "commands", "started", "own", "peers")))
@example(b"[" * 100_000)
@anew
def test_any_ledger_is_read_or_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ledger.FILE).write_bytes(content)
    assert ledger.read(tmp_path) == ledger.Ledger()


@given(st.binary(max_size=50) | WORDS.map(lambda word: word.encode() * 9))
@anew
def test_any_key_file_is_a_key_or_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / keyfile.FILE
    path.write_bytes(content)
    path.chmod(0o600)
    assert only(OverlaydError, lambda: keyfile.private_key(tmp_path)) is None


OPTIONS = tuple(f"OVERLAYD_{name.upper()}" for name in Settings.__dataclass_fields__)


@given(assignments((*OPTIONS, "OVERLAYD_OPTIONS", "OVERLAYD_X", "PATH", "#", ";", "export OVERLAYD_IFACE")))
@example("OVERLAYD_HEALTHZ_PORT=²".encode())
@example(b"OVERLAYD_RUN_DIR=a\0b")
@example(b"OVERLAYD_LEASE_TTL_S=" + b"9" * 5000)
@anew
def test_any_sysconfig_file_is_read_or_refused_with_what_is_allowed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "overlayd"
    path.write_bytes(content)
    found = only(ConfigError, lambda: read_file(path))
    assert found is None or all(isinstance(text, str) for pair in found.items() for text in pair)
    assert_settings(lambda: load({}, {}, path))


@given(st.dictionaries(st.sampled_from(OPTIONS), WORDS | st.text(max_size=8), max_size=4))
def test_any_environment_is_read_or_refused_with_what_is_allowed(environment: dict[str, str]) -> None:
    assert_settings(lambda: load({}, environment, None))


def assert_settings(call: Callable[[], Settings]) -> None:
    try:
        found = call()
    except ConfigError as error:
        # Python's own message would not say what to write.
        assert "invalid literal" not in str(error), error  # noqa: PT017
        assert "Exceeds the limit" not in str(error), error  # noqa: PT017
        return
    # The key below the prefix is spelled as flannel spells it.
    assert posixpath.normpath(f"{found.etcd_prefix}/config") == f"{found.etcd_prefix}/config"
    assert "\0" not in f"{found.run_dir}{found.state_dir}{found.subnet_file}{found.etcd_prefix}"


@given(assignments(("FLANNEL_SUBNET", "export A", "A")).map(lambda content: content.decode("utf-8", "replace")))
def test_any_variables_are_read_and_what_is_written_is_read_back(text: str) -> None:
    for key, value in envfile.parse(text).items():
        assert key.isidentifier()
        if value.isprintable() and not ("'" in value and ("$" in value or "`" in value)):
            assert envfile.parse(envfile.assignment(key, value)) == {key: value}


@given(
    st.lists(
        st.sampled_from(
            ["[Service]", "[Unit]", "ExecStart=", "ExecStart=/a \\", "# x", "ExecStart=/b", "=", " b", "[", "]"]
        )
        | st.text(max_size=8),
        max_size=8,
    ).map("\n".join)
)
def test_any_unit_gives_commands(text: str) -> None:
    for command in unit_files.exec_start([text, text]):
        assert command == command.strip(" \t\r\n")
        assert not set(command) & set("\n\r\0")


UNIT_LINES = st.sampled_from(
    [
        *("[Service]", "EnvironmentFile=-/etc/default/docker", "EnvironmentFile=", 'Environment="A=-b x" B=--mtu'),
        *(
            "ExecStart=/usr/bin/dockerd $A ${B}=3 $C",
            "ExecStart=",
            "ExecStart=/usr/bin/dockerd -",
            "ExecStart=@-dockerd",
        ),
        *("ExecStart=/usr/bin/dockerd --config-file $A --bip", "ExecStart=/usr/bin/dockerd -Db 'x", "Environment=A='"),
    ]
)


@given(
    st.lists(UNIT_LINES | st.text(max_size=8), max_size=8).map("\n".join),
    assignments(("A", "B", "C", "OVERLAYD_DOCKER_OPTIONS")),
    records(("bip", "mtu", "hosts", "bridge", "fixed-cidr", "default-gateway", "live-restore")),
)
@example("[Service]\nExecStart=/dockerd --config-file=$A", b"A=/\0", b"{}")
@anew
def test_whatever_docker_is_told_can_be_judged(tmp_path: Path, unit: str, variables: bytes, daemon_json: bytes) -> None:
    for name, content in (
        ("usr/lib/systemd/system/docker.service", unit.encode("utf-8", "surrogatepass")),
        ("etc/default/docker", variables),
        ("etc/docker/daemon.json", daemon_json),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = read_dockerd_config(root=tmp_path)
    given, problems = docker_options.plan(BOTH, found, firewalled=True)
    for text in (*given, *problems):
        assert text.isprintable(), text
    for text in docker_service.differences(("dockerd", *given, *unit.split()), given, found).values():
        assert text.isprintable(), text


@given(records(("nftables", "table", "chain", "rule", "name", "family")) | st.just(b'{"nftables":[{"table":{}}]}'))
def test_any_listing_of_nft_is_read_or_a_failed_command(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    found = only(CommandFailed, lambda: table.tables(text))
    assert found is None or isinstance(found, set)


def test_a_very_deeply_nested_file_is_reported_as_unreadable(tmp_path: Path) -> None:
    for name in (previous_lease.LEASE_FILE, status_file.FILE, ledger.FILE, "daemon.json"):
        (tmp_path / name).write_bytes(b"[" * 1_000_000)
    assert previous_lease.recall(tmp_path, tmp_path / "none") == PreviousLease()
    with pytest.raises(OverlaydError):
        status_file.read(tmp_path)
    settings, problems = read_daemon_json(tmp_path / "daemon.json")
    assert (settings, "cannot be read" in problems[0]) == ({}, True)
    assert ledger.read(tmp_path) == ledger.Ledger()


FLANNELD = ("FLANNEL_OPTIONS", "FLANNELD_IFACE", "FLANNELD_IP_MASQ", "FLANNEL_ETCD", "FLANNELD_PUBLIC_IP", "-flag")
UNIT = assignments(("[Service]\nExecStart", "ExecStart", "Environment", "EnvironmentFile")).map(
    lambda content: b"[Service]\nExecStart=/usr/bin/flanneld $FLANNEL_OPTIONS ${X}\n" + content
)


@given(assignments(FLANNELD), UNIT, assignments(("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET", "DOCKER_OPTS")), raw() | UNIT)
@example(b'FLANNEL_OPTIONS="-iface=\'eth0"', b"[Service]\nExecStart=/usr/bin/flanneld $FLANNEL_OPTIONS\n", b"", b"")
@example(b"", b"[Service]\nExecStart=/usr/bin/flanneld 'x\nEnvironment='A=b\n", b"", b"")
@example(b"", b"[Service]\nEnvironmentFile=/\nEnvironmentFile=/etc\n", b"", b"")
@example(b"", b"[Service]\nDescription=\xe4\n", b"", b"--bip=flannel \xff")
@anew
def test_any_host_of_flannels_is_read_or_refused(
    tmp_path: Path, sysconfig: bytes, unit: bytes, subnet_env: bytes, docker_file: bytes
) -> None:
    files = {
        "etc/sysconfig/flanneld": sysconfig,
        "etc/systemd/system/flanneld.service": unit,
        "run/flannel/subnet.env": subnet_env,
        "etc/systemd/system/docker.service.d/flannel.conf": docker_file,
        "etc/sysconfig/docker": docker_file,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = only(OverlaydError, lambda: look(tmp_path))
    if found is not None:
        made = only(ConfigError, lambda: translate(found.variables, found.words, masquerades=found.masquerades))
        assert made is None or isinstance(made, Translation)

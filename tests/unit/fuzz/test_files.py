"""Whatever stands in a file: never an exception but the one that the docstring names."""

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

from overlayd import docker, envfile, generator, memory, status
from overlayd.backends import keyfile, ledger
from overlayd.errors import CommandFailed, ConfigError, OverlaydError
from overlayd.firewall import table
from overlayd.lease import Subnets
from overlayd.registry import Remembered
from overlayd.settings import Settings, load, read_file
from tests.unit.fuzz.documents import damaged, documents, encoded, joined, nested, raw, values

WORDS = st.sampled_from(
    [
        *("10.5.2.0/24", "10.5.2.1/24", "fd42:0:0:2::/64", "fd42:0:0:2::1/64", "fd42::%eth0/64", "0.0.0.0/0", "x", ""),
        *("10.5.2.1", "10.5.2.0/33", "'", '"', "a b", "$X", "\\", "1500", "true", "\0", "\x1b[2J", "²", "9" * 5000),
    ]
)
# A file of the test's own for each example: the fixture's folder is the same for all, and written anew.
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
    """What a call gives; None where it raises the one kind that it may."""
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
def test_any_memory_is_one_or_none(tmp_path: Path, record: bytes, variables: bytes) -> None:
    (tmp_path / memory.LEASE_FILE).write_bytes(record)
    (tmp_path / "subnet.env").write_bytes(variables)
    found = memory.recall(tmp_path, tmp_path / "subnet.env")
    assert isinstance(found, Remembered)
    assert isinstance(found.subnets, Subnets)
    memory.remember(tmp_path, found)
    again = memory.recall(tmp_path, tmp_path / "none")
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
def test_any_status_is_one_or_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / status.FILE).write_bytes(content)
    found = only(OverlaydError, lambda: status.read(tmp_path))
    assert found is None or isinstance(found, status.Status)


BOTH = docker.wanted(
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
    found, problems = docker.read_daemon_json(path)
    assert isinstance(found, dict)
    assert not (found and problems)
    want = docker.wanted(Subnets(), 1450, we_masquerade=True)
    told = docker.Told(daemon_json=found)
    given, conflicts = docker.flags(want, told)
    assert len(given) + len(conflicts) <= len(want.options())
    # dockerd refuses what is in both.
    assert not {flag.removeprefix("--").partition("=")[0] for flag in given} & set(found)
    for text in (*given, *conflicts, *problems, *docker.contradictions(BOTH, told)):
        assert text.isprintable(), text
        assert len(text) < 500


@given(records(("boot_id", "commands", "started", "own", "peers")))
@example(b"[" * 100_000)
@anew
def test_any_ledger_is_one_or_an_empty_one(tmp_path: Path, content: bytes) -> None:
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
        # Python's own words would not tell a person what to write.
        assert "invalid literal" not in str(error), error  # noqa: PT017
        assert "Exceeds the limit" not in str(error), error  # noqa: PT017
        return
    # A key below it is spelt as flannel spells it.
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
    for command in generator.exec_start([text, text]):
        assert command == command.strip(" \t\r\n")
        assert not set(command) & set("\n\r\0")


@given(records(("nftables", "table", "chain", "rule", "name", "family")) | st.just(b'{"nftables":[{"table":{}}]}'))
def test_any_listing_of_nft_is_read_or_a_failed_command(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    found = only(CommandFailed, lambda: table.tables(text))
    assert found is None or isinstance(found, set)


@pytest.mark.parametrize("reader", ["memory", "status", "docker", "ledger"])
def test_a_file_nested_beyond_all_measure_is_no_traceback(tmp_path: Path, reader: str) -> None:
    for name in (memory.LEASE_FILE, status.FILE, ledger.FILE, "daemon.json"):
        (tmp_path / name).write_bytes(b"[" * 1_000_000)
    calls: dict[str, Callable[[], object]] = {
        "memory": lambda: memory.recall(tmp_path, tmp_path / "none"),
        "status": lambda: only(OverlaydError, lambda: status.read(tmp_path)),
        "docker": lambda: docker.read_daemon_json(tmp_path / "daemon.json"),
        "ledger": lambda: ledger.read(tmp_path),
    }
    calls[reader]()

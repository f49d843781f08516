"""Rules of the tree: linters, types, who may import what, nothing of this machine in a committed file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAEMON = ROOT / "daemon/overlayd"
LINES_AT_MOST = 400


def tracked() -> list[Path]:
    """git's files, and new ones that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "words",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "daemon", "images", "pipeline", "rpm", "tests", "tasks.py"],
    ],
    ids=["lint", "format", "types"],
)
def test_linters_have_nothing_to_say(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "rooms"),
    [
        ("etcd3", {"store"}),
        ("grpc", {"store"}),
        ("google.protobuf", {"store"}),
        ("jeepney", {"firewalld"}),
        ("subprocess", {"lib"}),
        ("http.server", {"monitoring"}),
        # Only tests use these; the daemon does not (ARCHITECTURE.md).
        ("pyroute2", set()),
        ("prometheus_client", set()),
    ],
)
def test_one_room_of_the_daemon_talks_to_each_thing_outside(module: str, rooms: set[str]) -> None:
    users = {
        path.relative_to(DAEMON).parts[0]
        for path in DAEMON.rglob("*.py")
        if any(name == module or name.startswith(f"{module}.") for name in imports(path))
    }
    assert users == rooms


# What pure modules must not import: they compute with values and import only each other.
WORLD = (
    "os",
    "socket",
    "subprocess",
    "threading",
    "pathlib",
    "pyroute2",
    "etcd3",
    "grpc",
    "jeepney",
    "select",
    "fcntl",
)
PURE = (
    "commands/status_frame",
    "commands/status_report",
    "backends/claims",
    "backends/commands",
    "backends/facts",
    "backends/listening",
    "backends/options",
    "backends/packets",
    "backends/peers",
    "backends/ranges",
    "backends/segments",
    "backends/x25519",
    "docker/flags",
    "docker/masquerade",
    "docker/remedies",
    "backends/wire",
    "doctor/facts",
    "doctor/finding",
    "fastpath/allowed",
    "fastpath/records",
    "firewall/chains",
    "firewall/diff",
    "firewall/dropped",
    "firewall/rules",
    "firewall/strangers",
    "firewall/table",
    "firewalld/desired",
    "flannel/undo",
    "kernel/diff",
    "kernel/foreign",
    "kernel/state",
    "kernel/wireguard/device",
    "kernel/wireguard/uapi",
    "leases/allocate",
    "leases/conflicts",
    "leases/held_lease",
    "leases/keys",
    "leases/lease",
    "leases/network_config",
    "leases/subnets",
    "lib/addresses",
    "lib/counters",
    "lib/envfile",
    "lib/iptables_save",
    "lib/marks",
    "lib/quick_dataclass",
    "lib/sanitize",
    "lib/subnet_index",
    "lib/tables",
    "lib/x509",
    "monitoring/endpoints",
    "lib/exposition",
    "monitoring/liveness",
    "monitoring/metrics",
    "monitoring/readiness",
    "monitoring/state",
    "probe/icmp",
    "probe/pathmtu",
    "probe/peers",
    "probe/reach",
    "probe/report",
    "store/endpoints",
    "store/bounded_keys",
    "store/protocol",
    *(
        f"{room}/{path.stem}"
        for room in ("doctor/checks", "ruleset")
        for path in sorted((DAEMON / room).glob("[!_]*.py"))
        # It reads what the others judge.
        if path.stem != "survey"
    ),
)


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_of_the_world(name: str) -> None:
    pure_modules = {"overlayd." + one.replace("/", ".") for one in PURE} | {
        "overlayd.errors",
        "overlayd.ruleset",
        # Looks up the facts of a backend, which are values.
        "overlayd.backends",
    }
    for found in imports(DAEMON / f"{name}.py"):
        assert found.split(".")[0] not in WORLD, found
        if found.startswith("overlayd.") and found not in pure_modules:
            # It is a name in a pure module, not a module.
            assert found.rpartition(".")[0] in pure_modules, found


def test_the_test_bed_stands_on_no_test() -> None:
    # cluster.up and the bench use it where nobody runs tests.
    tests = re.compile(r"tests\.(cluster|kernel|unit|sharing|side_by_side|conftest)\b")
    guilty = {
        str(path.relative_to(ROOT)): name
        for path in (ROOT / "tests/testbed").rglob("*.py")
        for name in imports(path)
        if tests.match(name)
    }
    assert not guilty


def test_no_file_of_code_is_longer_than_it_may_be() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked()
        if path.suffix == ".py" and (lines := len(path.read_text().splitlines())) > LINES_AT_MOST
    }
    assert not long


def test_no_file_names_a_package_index_or_a_path_of_a_machine() -> None:
    # Written in pieces, so that this file does not contain the names either.
    hosts = ("py" + r"pi\.org", "pythonhosted" + r"\.org", "deb" + r"\.debian\.org", "npm" + r"js\.org")
    names = re.compile("|".join([*hosts, re.escape(str(ROOT.parent) + "/")]))
    guilty = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if names.search(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not guilty


def test_nobody_reads_a_containers_address_where_docker_29_no_longer_has_it() -> None:
    # `.NetworkSettings.Networks` has the address in every release.
    gone = re.compile(r"NetworkSettings\.(?:IPAddress|GlobalIPv6Address|Gateway)|NetworkSettings\"\]\[\"IPAddress")
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path != Path(__file__) and gone.search(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []

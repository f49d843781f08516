"""The spec file, and the list of modules that are left out of the frozen program."""

from __future__ import annotations

import ast
import re
import subprocess

from images.engine.annotations import version
from images.engine.place import ROOT
from overlayd import __version__
from rpm import source
from rpm.freeze import freeze, left_out
from rpm.targets import INSTALLED, build_script
from tests.testbed.needs import needs

SPEC = (ROOT / source.SPEC).read_text()


# These ask rpmspec.
needs_rpm = needs("rpmspec")


def query(*arguments: str) -> str:
    done = subprocess.run(
        ["rpmspec", "--define", "overlayd_version 1.2.3", "--define", "overlayd_release 4", *arguments, source.SPEC],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@needs_rpm
def test_rpm_can_read_the_spec() -> None:
    assert query("--query", "--queryformat=%{NVRA} %{LICENSE}") == "overlayd-1.2.3-4.x86_64 Apache-2.0"


@needs_rpm
def test_what_it_requires_is_written_out_and_little() -> None:
    assert {line.split()[0] for line in query("--query", "--requires").splitlines()} == {
        "/bin/sh",
        "iptables",
        "systemd",
    }


def test_every_file_that_the_spec_names_exists() -> None:
    named = re.findall(r"^Source\d+: (\S+)$", SPEC, flags=re.MULTILINE)
    assert named == [path.name for path in source.SOURCES]
    assert all((ROOT / path).is_file() for path in source.SOURCES)


def test_it_installs_where_the_program_was_frozen_for() -> None:
    assert f"%global home {INSTALLED}\n" in SPEC


def test_a_running_daemon_is_restarted_without_waiting_for_etcd() -> None:
    # A restart ends when the daemon is ready, so without --no-block an upgrade would wait while etcd is away.
    restarts = [
        line.strip() for line in SPEC.splitlines() if "restart" in line and line.lstrip().startswith("systemctl")
    ]
    assert restarts == ["systemctl --no-block try-restart overlayd.service 'overlayd@*.service' || :"]


def test_nothing_in_a_scriptlet_can_fail_the_transaction() -> None:
    for body in re.findall(r"^%(?:post|preun|postun)\n(.*?)(?=^%)", SPEC, flags=re.MULTILINE | re.DOTALL):
        for line in body.splitlines():
            if re.match(r"\s*(systemctl|systemd-tmpfiles|firewall-cmd|/usr/bin/overlayd)\b", line):
                assert "||" in line, line


def test_no_module_of_the_daemon_imports_what_is_left_out_of_the_program() -> None:
    names = set(left_out.modules())
    for path in (ROOT / source.PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not names & {alias.name.partition(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.partition(".")[0] not in names, path


def test_asserts_that_are_frozen_away_are_not_relied_upon() -> None:
    for path in (ROOT / source.PACKAGE).rglob("*.py"):
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))), path


def test_every_module_is_frozen_also_those_imported_by_a_name_put_together() -> None:
    names = freeze.modules(ROOT / source.DAEMON)
    assert {"overlayd", "overlayd.__main__", "overlayd.backends.vxlan", "overlayd.store"} <= set(names)


def test_version_is_the_daemons() -> None:
    assert version(ROOT) == __version__


def test_build_script_is_a_function_of_its_arguments() -> None:
    assert build_script("1.0", 5, release="1") == build_script("1.0", 5, release="1")
    assert build_script("1.0", 5, release="1") != build_script("1.0", 5, release="2")

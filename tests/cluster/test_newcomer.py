"""README's commands as a newcomer runs them: bare Debian 12 with its Python, an empty environment, a new clone."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.cluster import newcomer
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.newcomer import Newcomer

pytestmark = [
    pytest.mark.lane("builds"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root filesystem is made by root"),
    pytest.mark.timeout(1800),
]
# All characters that requirements/check allows in a path.
ODD = "/root/o+v@e=r~l_a-y.1"
PLAIN = "/root/overlayd"
_WARM = ROOT / "build/cache/newcomer"
# Packages of the base in both formats, wheels, and their metadata; without what tests keep in the cache.
_FETCHED = "$(ls | grep -vx -e newcomer -e roots)"
_BUILD_S = 1200.0


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The output of the commands; kept if the test fails."""
    folder = ROOT / "build/clusters" / request.node.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    failed = request.session.testsfailed
    yield folder / "log"
    if request.session.testsfailed == failed:
        shutil.rmtree(folder)


def begin(machine: Newcomer, place: str) -> None:
    """Clone, and run the commands that need no set-up; asserts that they make none."""
    assert "not there" in machine.run("python3 --version 2>&1 || echo not there")
    machine.run(f"git clone --quiet /root/origin {place}")
    assert "\nup " in machine.run(f"cd {place}; make help")
    assert "nothing was set up" in machine.run(f"cd {place}; make down")
    assert machine.run(f"cd {place}; git status --porcelain --ignored; ls /usr/bin/python3 2>/dev/null || :") == ""


def build(machine: Newcomer, place: str) -> None:
    """`make build-all`: the host image must exist, made with Debian's Python and exactly the lowest versions."""
    machine.run(f"cd {place}; make build-all", timeout_s=_BUILD_S)
    assert machine.run("docker image ls --quiet overlayd/host").strip()
    versions = newcomer.lowest()
    python, _ = versions.pop("python")
    assert (
        machine.run(f"cd {place}; .venv/bin/python --version; /usr/bin/python3 --version") == f"Python {python}\n" * 2
    )
    for name, (version, packages) in versions.items():
        asked = machine.run(f"dpkg-query --show --showformat='${{Version}}\\n' {packages[0]}")
        assert re.sub(r"^\d+:|[^0-9.].*", "", asked.strip()) == version, name


def end(machine: Newcomer, place: str) -> None:
    """`make down`: asserts that nothing runs any more."""
    assert "build-all" in machine.run(f"cd {place}; make help")
    machine.run(f"cd {place}; make down")
    assert machine.processes() == []
    assert "Traceback" not in machine.log.read_text()


@pytest.mark.slow
def test_a_newcomers_commands_work_with_what_was_fetched_before(log: Path) -> None:
    caches = {_WARM / "apt": "/var/cache/apt/archives", _WARM / "pip": "/root/.cache/pip"}
    for folder in caches:
        folder.mkdir(parents=True, exist_ok=True)
    with newcomer.machine(log, caches=caches | {ROOT / "build/cache": "/root/fetched:ro"}) as machine:
        begin(machine, PLAIN)
        machine.run(f"mkdir -p {PLAIN}/build/cache; cd /root/fetched; cp -a {_FETCHED} {PLAIN}/build/cache/")
        build(machine, PLAIN)
        end(machine, PLAIN)


@pytest.mark.slow
def test_a_newcomers_commands_work_with_nothing_fetched_before(log: Path) -> None:
    with newcomer.machine(log) as machine:
        begin(machine, ODD)
        build(machine, ODD)
        said = machine.run(f"cd {ODD}; make up", timeout_s=_BUILD_S)
        assert "host3" in said
        machine.run(f"cd {ODD}; make status")
        # After a move the paths in .venv are wrong; `make down` still removes what the checkout started.
        machine.run(f"mv {ODD} {PLAIN}")
        assert "cluster default removed" in machine.run(f"cd {PLAIN}; make down", timeout_s=_BUILD_S)
        end(machine, PLAIN)

"""`invoke cluster.… --machines` as a user runs it; what is interrupted or killed leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlayd.errors import OverlaydError
from tests.testbed.cluster import docker_engine, invoked, qemu, virtual_machine
from tests.testbed.cluster.create import ROOT, create, remove
from tests.testbed.cluster.description import CLUSTER_LABEL, Cluster
from tests.testbed.cluster.invoked import invoke
from tests.testbed.cluster.steps import virtual_hosts
from tests.testbed.polling import eventually

_NAME = "vmtasks"
_UNDERLAY = IPv4Network("198.18.42.0/24")
_UP = ("cluster.up", "--machines", "--name", _NAME, "--underlay", str(_UNDERLAY))
_FOLDERS = [virtual_machine.STATES / _NAME / f"host{number}" for number in (1, 2)]
_BOOT_S = 1800.0


def _run() -> bool:
    return all(qemu.running(folder) for folder in _FOLDERS)


def _left() -> list[str]:
    found = docker_engine.names(f"{CLUSTER_LABEL}={_NAME}")
    found += [str(number) for folder in _FOLDERS for number in qemu.running(folder)]
    files = (virtual_machine.STATES / _NAME, *(record for record, _ in virtual_machine.records(_NAME)))
    return found + [str(path) for path in files if path.exists()]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    remove(_NAME)
    yield
    left = _left()
    remove(_NAME)
    assert not left


@pytest.mark.slow
def test_up_status_show_and_down_work_for_machines_as_for_containers() -> None:
    done = invoke(*_UP, "--hosts", "2", timeout_s=_BOOT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as virtual machines" in done.stdout
    told = invoke("cluster.status", "--name", _NAME).stdout
    assert told.count("ready") == told.count("1 well") == 2, told
    shown = invoke("cluster.show", "--name", _NAME, timeout_s=_BOOT_S)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "host1" in shown.stdout
    again = invoke(*_UP, "--hosts", "2", timeout_s=_BOOT_S)
    assert f"cluster {_NAME} is up and well" in again.stdout
    virtual_machine.find(Cluster(name=_NAME, base="", underlay=_UNDERLAY, machines=True))["host2"].power_cut()
    assert "off" in invoke("cluster.status", "--name", _NAME).stdout
    down = invoke("cluster.down", "--name", _NAME)
    assert f"cluster {_NAME} removed: 2 machines, 1 containers" in down.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_boot_leaves_nothing(number: signal.Signals) -> None:
    status, _ = invoked.interrupted(*_UP, "--hosts", "2", when=_run, by=number, begins_s=_BOOT_S)
    assert status != 0
    assert _left() == []


@pytest.mark.slow
def test_machines_of_a_killed_boot_are_removed_by_a_process_that_outlives_it() -> None:
    status, said = invoked.interrupted(*_UP, "--hosts", "2", when=_run, by=signal.SIGKILL, begins_s=_BOOT_S)
    assert status == -signal.SIGKILL
    assert said.endswith(f"cluster {_NAME} is removed: the process that made it was killed\n")
    assert _left() == []


@pytest.mark.slow
def test_machines_of_a_killed_run_are_found_and_removed(base: str) -> None:
    # `create` alone has no guard.
    script = (
        "from ipaddress import IPv4Network\n"
        "from tests.testbed.cluster.create import create\n"
        "from tests.testbed.cluster.description import Cluster\n"
        f"create(Cluster(name={_NAME!r}, base={base!r}, hosts=2, underlay=IPv4Network({str(_UNDERLAY)!r}),"
        " machines=True), print)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}"}
    virtual_hosts.build(Cluster(base=base, machines=True))
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL) as run:
        try:
            eventually("the machines run", _run, timeout_s=_BOOT_S)
        finally:
            run.kill()
    # With the folder of its state gone the machine is known by its process.
    assert _run()
    assert "2 machines" in invoke("cluster.down", "--name", _NAME).stdout
    assert _left() == []


def test_without_qemu_one_message_says_what_to_install(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OverlaydError, match=r"^QEMU is not installed, and machines need it\n  `make system`"):
        create(Cluster(name=_NAME, base=base, underlay=_UNDERLAY, machines=True), lambda _text: None)


def test_more_machines_than_there_is_memory_for_are_refused_before_anything_is_made(base: str) -> None:
    many = Cluster(name=_NAME, base=base, hosts=900, underlay=IPv4Network("198.18.44.0/22"), machines=True)
    with pytest.raises(OverlaydError, match=r"^900 machines need \d+ MB of memory, and \d+ MB are free\n  give fewer"):
        virtual_hosts.require_room(many)


def test_a_full_disk_is_refused_before_anything_is_made() -> None:
    virtual_machine.STATES.mkdir(parents=True, exist_ok=True)
    status, errors, left = invoked.on_a_full_disk(virtual_machine.STATES, 100, *_UP)
    assert (status, left) == (1, [])
    assert "machines need 3072 MB in" in errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kernel", "6.1"), "kernel is 6.1, and the hosts are containers"),
        (("--machines", "--kernel", "2.6"), "kernel is '2.6'\n  allowed: 5.10, 6.1, 6.12"),
        (("--machines", "--base", "centos-stream9"), "images.machine cannot be made on centos-stream9"),
        (("--machines", "--hosts", "0"), "hosts is '0'"),
    ],
)
def test_what_cannot_be_asked_for_is_one_message(words: tuple[str, ...], said: str) -> None:
    done = invoke("cluster.up", "--name", _NAME, "--underlay", str(_UNDERLAY), *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr

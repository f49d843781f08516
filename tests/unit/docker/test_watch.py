"""daemon.json while the daemon runs: what is wrong comes and goes with it, and so do dockerd's flags."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from overlayd.docker import options as docker_options
from overlayd.docker import service as docker_service
from overlayd.docker.service import DROP_INS, DockerService
from overlayd.docker.watch import DockerWatch
from overlayd.leases.subnets import Subnets

WANT = docker_options.desired_options(Subnets(v4=IPv4Network("10.5.52.0/24")), 1450, we_masquerade=True)
ALL = ["--bip=10.5.52.1/24", "--ip-masq=false", "--mtu=1450"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A daemon.json that is not there yet; a docker of this machine's is none of the test's."""
    monkeypatch.setattr(docker_service, "read_service", lambda _config: None)
    monkeypatch.setattr(docker_service, "dockerd_argv", lambda *_args: None)
    return tmp_path / "daemon.json"


def test_a_conflict_is_noticed_when_it_comes_and_forgotten_when_it_is_mended(file: Path) -> None:
    watch = DockerWatch(restart="never", lasting_s=1, daemon_json=file)

    def look() -> list[str]:
        watch.look(WANT)
        # This machine may have a docker0 of its own.
        return [problem for problem in watch.problems if not problem.startswith(docker_options.BRIDGE)]

    assert (look(), watch.options) == ([], ALL)
    file.write_text('{"bip": "172.30.0.1/16"}')
    (problem,) = look()
    assert ("172.30.0.1/16" in problem, watch.options) == (True, ALL[1:])
    file.write_text('{"bip": "10.5.52.1/24"}')
    assert (look(), watch.options) == ([], ALL[1:])
    file.write_text('{"bip": ')
    (problem,) = look()
    # Nobody knows what will be in it: the flags stay as they are.
    assert ("cannot be read" in problem, watch.options) == (True, ALL[1:])
    file.unlink()
    assert (look(), watch.options) == ([], ALL)


def test_one_that_cannot_be_read_from_the_beginning_takes_no_flag_away(file: Path) -> None:
    file.write_text("{")
    watch = DockerWatch(restart="never", lasting_s=1, daemon_json=file)
    watch.look(WANT)
    assert watch.options == ALL


def test_while_daemon_json_contradicts_the_lease_no_restart_is_tried(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # docker0 cannot be made here; what decides is what docker_service.settle is told.
    told: list[tuple[str | None, str]] = []
    monkeypatch.setattr(docker_service, "settle", lambda _config, problem, *, restart: told.append((problem, restart)))
    monkeypatch.setattr("overlayd.docker.watch.interfaces.interface_addresses", lambda _name: ())
    watch = DockerWatch(restart="always", lasting_s=0, daemon_json=file)
    file.write_text('{"bip": "172.30.0.1/16"}')
    for _ in range(3):
        watch.look(WANT)
        watch.settle()
    file.unlink()
    for _ in range(3):
        watch.look(WANT)
        watch.settle()
    assert [restart for _problem, restart in told] == ["never", "always"]


def test_a_docker0_that_was_left_behind_is_no_problem_while_nobody_wants_docker(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = docker_service.DockerService(state="inactive", drop_ins=docker_service.DROP_INS)
    monkeypatch.setattr(docker_service, "read_service", lambda _config: service)
    monkeypatch.setattr(
        "overlayd.docker.watch.interfaces.interface_addresses", lambda _name: (IPv4Interface("172.17.0.1/16"),)
    )
    watch = DockerWatch(restart="never", lasting_s=0, daemon_json=file)
    watch.look(WANT)
    assert watch.problems == ()
    # On its way, it is one: docker is about to be started, and may keep the bridge as it is.
    service = replace(service, job=True)
    watch.look(WANT)
    assert "172.17.0.1/16" in " ".join(watch.problems)


@pytest.mark.parametrize(
    ("argv", "restarted"),
    [
        (["dockerd", *ALL], False),
        (["dockerd", *ALL[:2]], True),
        # Somebody else's decision, and not yet in force: docker is theirs to restart.
        (["dockerd", *ALL, "--iptables=false"], False),
    ],
    ids=["as-it-should", "without-ours", "without-theirs"],
)
def test_a_dockerd_without_our_options_is_wrong_as_one_on_another_address_is(
    file: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], restarted: bool
) -> None:
    told: list[tuple[str | None, str]] = []
    monkeypatch.setattr(docker_service, "settle", lambda _config, problem, *, restart: told.append((problem, restart)))
    monkeypatch.setattr(docker_service, "read_service", lambda _config: None)
    monkeypatch.setattr(docker_service, "dockerd_argv", lambda *_args: tuple(argv))
    monkeypatch.setattr("overlayd.docker.watch.interfaces.interface_addresses", lambda _name: None)
    watch = DockerWatch(restart="idle", lasting_s=0, daemon_json=file)
    for _ in range(3):
        watch.look(WANT)
        watch.settle()
    assert [problem is not None for problem, _restart in told] == [restarted]
    assert bool(watch.problems) == (argv != ["dockerd", *ALL])


def test_docker_is_restarted_once_a_problem_has_lasted_and_only_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[tuple[float, bool, str]] = []
    now = 1000.0
    monkeypatch.setattr(
        docker_service,
        "settle",
        lambda _config, problem, *, restart: settled.append((now, problem is not None, restart)),
    )
    # docker0 is not there, then it is, without an address.
    monkeypatch.setattr(
        "overlayd.docker.watch.interfaces.interface_addresses", lambda _name: () if now > 1004 else None
    )
    watch = DockerWatch(restart="always", lasting_s=10, daemon_json=file, clock=lambda: now)
    for _ in range(30):
        watch.look(WANT)
        watch.settle()
        now += 1
    # At the first look, as docker may wait for the subnet; then when docker0's problem is ten seconds old.
    assert settled == [(1000.0, False, "always"), (1015.0, True, "always")]


def test_systemd_is_asked_every_five_seconds_at_most(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    asked: list[float] = []

    def read(_config: object) -> DockerService:
        asked.append(now)
        return DockerService(state="inactive", drop_ins=DROP_INS)

    monkeypatch.setattr(docker_service, "read_service", read)
    watch = DockerWatch(restart="never", lasting_s=60, daemon_json=file, clock=lambda: now)
    for _ in range(24):
        watch.look(WANT)
        now += 0.5
    assert asked == [0.0, 5.0, 10.0]


def test_a_systemd_without_docker_is_asked_less_often_and_processes_are_searched(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked, searched = 0.0, list[float](), list[float]()
    monkeypatch.setattr(docker_service, "read_service", lambda _config: asked.append(now))
    monkeypatch.setattr(docker_service, "dockerd_argv", lambda *_args: searched.append(now))
    monkeypatch.setattr("overlayd.docker.watch.interfaces.interface_addresses", lambda _name: None)
    watch = DockerWatch(restart="never", lasting_s=60, daemon_json=file, clock=lambda: now)
    for _ in range(66):
        watch.look(WANT)
        now += 0.5
    assert asked == [0.0, 30.0]
    assert searched == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    # What may be a unit that was installed.
    file.write_text("{}")
    watch.look(WANT)
    file.write_text('{"mtu": 1450}')
    watch.look(WANT)
    assert asked == [0.0, 30.0, 33.0]


def test_a_docker_that_runs_on_is_asked_about_less_often(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked, process = 0.0, list[float](), subprocess.Popen(["sleep", "60"])
    try:
        service = DockerService(state="active", pid=process.pid, enabled=True, drop_ins=DROP_INS)

        def read(_config: object) -> DockerService:
            asked.append(now)
            return service

        monkeypatch.setattr(docker_service, "read_service", read)
        monkeypatch.setattr("overlayd.docker.watch.interfaces.interface_addresses", lambda _name: None)
        watch = DockerWatch(restart="never", lasting_s=10, daemon_json=file, clock=lambda: now)
        for moment in (0.0, 5.0, 10.0, 29.0, 31.0, 40.0):
            now = moment
            watch.look(WANT)
        assert watch.problems == ()
        assert asked == [0.0, 31.0]
        # A changed file may be another drop-in, and a process that ended another docker.
        file.write_text('{"live-restore": true}')
        now = 42.0
        watch.look(WANT)
        assert asked == [0.0, 31.0, 42.0]
    finally:
        process.kill()
        process.wait()
    for moment in (46.0, 48.0):
        now = moment
        watch.look(WANT)
    assert asked == [0.0, 31.0, 42.0, 48.0]

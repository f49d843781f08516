"""etcd on this very host does not answer: docker may start on the subnet of the last run."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlayd.docker import etcd_in_docker
from overlayd.docker import options as docker_options
from overlayd.docker.etcd_in_docker import EarlyDockerStart
from overlayd.leases.subnets import Subnets
from overlayd.settings import Settings

WANT = docker_options.desired_options(Subnets(v4=IPv4Network("10.5.52.0/24")), 1450, we_masquerade=True)
HERE, ELSEWHERE = "http://127.0.0.1:2379", "http://192.0.2.1:2379"


@pytest.fixture
def ear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's, for what we notify it of."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as found:
        found.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield found


def first(tmp_path: Path, endpoint: str, *, after_s: float = 0) -> EarlyDockerStart:
    settings = Settings(etcd_endpoints=(endpoint,), run_dir=tmp_path / "run", state_dir=tmp_path / "state")
    return EarlyDockerStart(settings, after_s=after_s)


def heard(ear: socket.socket) -> bytes:
    try:
        return ear.recv(1000)
    except BlockingIOError:
        return b""


def test_docker_may_start_as_in_the_last_run(tmp_path: Path, ear: socket.socket) -> None:
    etcd_in_docker.remember(tmp_path / "state", docker_options.record(WANT, firewalled=True))
    waits = first(tmp_path, HERE)
    said = waits.look()
    assert "docker may start" in str(said)
    assert "--bip=10.5.52.1/24" in (tmp_path / "run" / docker_options.DOCKER_ENV).read_text()
    # docker.service waits for that word.
    assert heard(ear) == b"READY=1"
    # Once in a run.
    assert (waits.look(), heard(ear)) == (said, b"")


def test_without_a_last_run_the_way_out_is_told(tmp_path: Path, ear: socket.socket) -> None:
    said = first(tmp_path, HERE).look()
    assert "systemctl disable --now overlayd && systemctl start docker" in str(said)
    assert heard(ear) == b""
    assert not (tmp_path / "run" / docker_options.DOCKER_ENV).exists()


def test_it_takes_a_while_and_an_etcd_on_this_host(tmp_path: Path, ear: socket.socket) -> None:
    etcd_in_docker.remember(tmp_path / "state", docker_options.record(WANT, firewalled=True))
    assert first(tmp_path, HERE, after_s=60).look() is None
    assert first(tmp_path, ELSEWHERE).look() is None
    assert heard(ear) == b""


def test_an_etcd_is_known_to_be_here_by_address_and_by_name() -> None:
    names = ("http://localhost:2379", "http://[::1]:2379", f"http://{socket.gethostname().lower()}:2379")
    assert all(etcd_in_docker.etcd_is_here((ELSEWHERE, one)) for one in names)
    assert not etcd_in_docker.etcd_is_here((ELSEWHERE,))
    assert not etcd_in_docker.etcd_is_here(("http://no-such-host.invalid:2379",))

"""Leases through etcd's own proxy, which ends a stream of keep-alives with its last request."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.polling import eventually
from tests.testbed.ports import free_port
from tests.unit.store.conftest import Etcd
from tests.unit.store.test_trust import works


@pytest.fixture
def proxy(etcd: Etcd, tmp_path: Path) -> Iterator[str]:
    """`etcd grpc-proxy` before an etcd: its endpoint."""
    where = f"127.0.0.1:{free_port()}"
    argv = ["etcd", "grpc-proxy", "start", f"--endpoints={etcd.endpoint}", f"--listen-addr={where}"]
    with (tmp_path / "proxy.log").open("wb") as log:
        running = subprocess.Popen([*argv, f"--data-dir={tmp_path / 'proxy'}"], stdout=log, stderr=log)
    try:
        eventually("it listens", lambda: _listens(where))
        yield f"http://{where}"
    finally:
        running.kill()
        running.wait()


def _listens(where: str) -> bool:
    host, _, port = where.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_a_lease_is_prolonged_through_it(etcd: Etcd, proxy: str) -> None:
    store = etcd.store(endpoints=(proxy,))
    works(store)
    lease = store.grant(60)
    for _again in range(3):
        assert store.refresh(lease) == 60
    store.revoke(lease)
    assert store.refresh(lease) <= 0

"""A real etcd on the loopback interface, as an ordinary user can run it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd.errors import StoreError
from overlayd.store.client import Store, StoreSettings

START_TIMEOUT_S = 20.0


class Etcd:
    """One etcd process that a test may stop, freeze and start again, on the same port, with or without its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = [_free_port(), _free_port()]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def start(self) -> None:
        peer = f"http://127.0.0.1:{self._ports[1]}"
        command = [
            *("etcd", "--name", "one", "--data-dir", str(self._folder / "data")),
            *("--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"one={peer}"),
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        store = self.store()
        while True:
            try:
                store.get("/")
                break
            except StoreError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                assert self._process.poll() is None, (self._folder / "log").read_text()
        store.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def lose_data(self) -> None:
        shutil.rmtree(self._folder / "data")

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def store(self) -> Store:
        return Store(StoreSettings(endpoints=(self.endpoint,)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    running = Etcd(tmp_path)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def store(etcd: Etcd) -> Iterator[Store]:
    connected = etcd.store()
    try:
        yield connected
    finally:
        connected.close()

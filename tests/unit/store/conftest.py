"""A real etcd on the loopback interface, as an ordinary user can run it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlayd.leases.registry import Registry
from overlayd.store.access import StoreSettings
from overlayd.store.client import Store
from overlayd.store.follow import Follower
from tests.testbed.certificates import Authority
from tests.testbed.etcd import Etcd as Cluster
from tests.testbed.polling import eventually

PASSWORD = "correct horse"


class Etcd(Cluster):
    """An etcd and the stores on it."""

    def __init__(self, folder: Path, *, flags: Sequence[str] = (), **arrangement: Any) -> None:
        # A member on its own elects itself; waiting a second for others each time is most of a test's time.
        alone = len(arrangement.get("hosts", [""])) == 1
        quick = ("--heartbeat-interval=20", "--election-timeout=200") if alone else ()
        super().__init__(folder, flags=[*quick, *flags], **arrangement)
        self._stores: list[Store] = []

    @property
    def endpoint(self) -> str:
        """What clients are told, where there is only one member."""
        (only,) = self.endpoints
        return only

    def store(self, **settings: Any) -> Store:
        """A store that knows where etcd is, and these settings."""
        made = Store(StoreSettings(**{"endpoints": self.endpoints, **settings}))
        self._stores.append(made)
        return made

    def end(self) -> None:
        """End the servers, and hang up all stores."""
        for store in self._stores:
            store.close()
        self.stop()


@contextmanager
def serving(folder: Path, **arrangement: Any) -> Iterator[Etcd]:
    """An etcd of that arrangement for the length of the block."""
    etcd = Etcd(folder, **arrangement)
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.end()


@contextmanager
def following(store: Store, prefix: str = "/net/") -> Iterator[Follower]:
    """A follower that has seen etcd."""
    follower = Follower(store, prefix, lambda: None)
    follower.start()
    try:
        eventually("following", lambda: follower.view.connected)
        yield follower
    finally:
        follower.stop()


def logins(etcd: Etcd) -> list[str]:
    """The tokens that a guarded etcd has given to the user, from its log."""
    return re.findall(r"authorized overlayd, token is (\S+)", etcd.members[0].log_text())


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """One member, without TLS and without users."""
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Etcd]:
    """One that asks for a login, and whose tokens live for a second after their last use."""
    with serving(tmp_path, flags=["--auth-token-ttl=1", "--log-package-levels=auth=DEBUG"]) as running:
        running.enable_auth("overlayd", PASSWORD, prefix="/net/")
        yield running


@pytest.fixture
def store(etcd: Etcd) -> Store:
    """A store on the first."""
    return etcd.store()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that etcd and its clients trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


def value(seen: Follower | Registry, name: str) -> bytes | None:
    """The value of a key as it was last seen; None where it was not."""
    found = seen.view.entries.get(name)
    return found.value if found else None

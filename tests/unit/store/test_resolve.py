"""Names of etcd's servers: looked up once at a time, waited for no longer than allowed, and never for nothing."""

from __future__ import annotations

import random
import socket
import threading
import time
from typing import Any

import pytest

from overlayd.store.connection import Connection
from overlayd.store.endpoints import EtcdEndpoint
from overlayd.store.resolve import NameResolver, Unresolved
from tests.unit.store.conftest import Etcd


def answers(*addresses: str) -> list[tuple[Any, ...]]:
    return [(socket.AF_INET6 if ":" in one else socket.AF_INET, 1, 6, "", (one, 0)) for one in addresses]


def test_a_name_server_that_is_slower_than_a_call_is_waited_for_by_the_next(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = [], threading.Event()

    def slow(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        go_on.wait()
        return answers("127.0.0.1")

    names = NameResolver()
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    for _attempt in range(3):
        with pytest.raises(Unresolved, match="no answer from this host's name servers"):
            names.families("etcd.test", 0.05)
    go_on.set()
    assert names.families("etcd.test", 5) == (("127.0.0.1",),)
    assert asked == ["etcd.test"]
    # What is known by then may have changed: each connection asks anew.
    assert names.families("etcd.test", 5) == (("127.0.0.1",),)
    assert len(asked) == 2
    port = etcd.endpoint.rpartition(":")[2]
    assert etcd.store(endpoints=(f"http://etcd.test:{port}",)).get("/net/a") is None


def test_addresses_are_kept_in_their_order_by_family(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers("2001:2::1", "198.18.0.1", "2001:2::2", "198.18.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert NameResolver().families("etcd.test", 5) == (("2001:2::1", "2001:2::2"), ("198.18.0.1",))


@pytest.mark.parametrize("turn", range(3))
def test_each_family_of_each_server_is_tried_within_one_call(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    port = etcd.endpoint.rpartition(":")[2]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers("::1", "127.0.0.1"))
    monkeypatch.setattr(random, "randrange", lambda _end: turn)
    endpoints = ("http://127.0.0.9:1", f"http://etcd.test:{port}", "http://127.0.0.8:1")
    assert etcd.store(endpoints=endpoints).get("/net/a") is None


def test_connections_to_a_name_with_several_addresses_spread_over_them() -> None:
    first = socket.create_server(("127.0.0.1", 0))
    port = first.getsockname()[1]
    with first, socket.create_server(("127.0.0.2", port)) as second:
        for listening in (first, second):
            listening.setblocking(False)
        seen: set[str] = set()
        deadline = time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < deadline:
            made = Connection(EtcdEndpoint(host="etcd.test", port=port, tls=False), None, ("127.0.0.1", "127.0.0.2"))
            made.health_problem(0.1)
            made.close()
            for listening in (first, second):
                try:
                    listening.accept()[0].close()
                    seen.add(listening.getsockname()[0])
                except BlockingIOError:
                    pass
    assert seen == {"127.0.0.1", "127.0.0.2"}

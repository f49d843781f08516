"""Whether anybody who reaches etcd may read or write there: found out without a login, changing nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from overlayd.errors import StoreError
from overlayd.lib.log import logger
from overlayd.lib.periodic import jittered
from overlayd.lib.quick_dataclass import dataclass
from overlayd.store.client import Store
from overlayd.store.connection import Connection, details, no_room, unreachable
from overlayd.store.rights import write_without_effect
from overlayd.store.rpc import etcdrpc, grpc

log = logger("store")

TIMEOUT_S = 3.0
INTERVAL_S = 120.0
# How soon to ask again after a start and while etcd is away; where etcd does not say, twice as long each time.
SOON_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Openness:
    """What etcd at `where` allows anybody who reaches it, without a login and without a client certificate."""

    where: str
    read: bool
    write: bool

    @property
    def warning(self) -> str | None:
        """What that means, in a sentence; None where nothing is open."""
        if self.write:
            return (
                f"etcd at {self.where} takes writes from anybody who reaches it, without a password: whoever writes "
                "there moves this network's packets; give it users, and TLS (etcd-setup does it: README)"
            )
        if self.read:
            return (
                f"etcd at {self.where} is read by anybody who reaches it, without a password: whoever reads there "
                "knows every host of this network, and a key in its config; give it users, and TLS "
                "(etcd-setup does it: README)"
            )
        return None


def openness(store: Store, key: str) -> Openness:
    """Try to read and to write a key without a login and without a certificate (write_without_effect).

    Raises StoreError when etcd does not say.
    """
    connection = store.servers.anonymous_connection()
    try:
        return Openness(
            where=str(connection.endpoint),
            read=_allows(connection, connection.kv.Range, etcdrpc.RangeRequest(key=key.encode(), count_only=True)),
            write=_allows(connection, connection.kv.Txn, write_without_effect(key)),
        )
    finally:
        connection.close()


def _allows(connection: Connection, method: Callable[..., Any], request: Any) -> bool:
    try:
        method(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        if no_room(error):
            raise StoreError(f"etcd at {connection.endpoint}: {details(error)}") from error
        # With TLS, a server may close the connection of a client without a certificate: that is a refusal too.
        if unreachable(error) and not (connection.trust and error.code() is grpc.StatusCode.UNAVAILABLE):
            raise StoreError(f"etcd at {connection.endpoint}: {details(error)}") from error
        return False
    return True


class OpennessWatch:
    """Asks every few minutes, in a thread of its own, while `connected` says that etcd is there.

    `warnings` is what was last found; `on_change` is called when it has changed.
    """

    def __init__(self, store: Store, key: str, *, connected: Callable[[], bool], on_change: Callable[[], None]) -> None:
        self._store = store
        self._key = key
        self._connected = connected
        self._on_change = on_change
        self.warnings: tuple[str, ...] = ()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="etcd-openness", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait_s, retry_s = 0.0, SOON_S
        while not self._stopping.wait(jittered(wait_s)):
            wait_s = SOON_S
            if self._connected():
                try:
                    self._ask()
                    wait_s, retry_s = INTERVAL_S, SOON_S
                except StoreError as error:
                    wait_s, retry_s = retry_s, min(INTERVAL_S, 2 * retry_s)
                    log.debug("etcd does not say whether it is open", problem=error.message)

    def _ask(self) -> None:
        seen = openness(self._store, self._key)
        log.debug("asked etcd without a login", reads=seen.read, writes=seen.write)
        warning = seen.warning
        found = (warning,) if warning else ()
        if found != self.warnings:
            for one in found:
                log.warning(one)
            self.warnings = found
            self._on_change()

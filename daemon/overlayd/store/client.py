"""etcd as overlayd uses it: a few atomic operations with deadlines, on python-etcd3's messages.

python-etcd3's own methods have no deadlines, drop revisions and never log in again, so the raw requests of its gRPC API
are sent here; nothing outside this folder sees gRPC or etcd3. Every failure is a StoreError that names the operation
and the endpoints.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from overlayd.store.access import StoreSettings
from overlayd.store.connection import Connection
from overlayd.store.pages import Pages, key_value, prefix_end
from overlayd.store.protocol import KeyStore, KeyValue
from overlayd.store.rpc import etcdrpc
from overlayd.store.servers import Servers

if TYPE_CHECKING:
    from overlayd.settings import Settings


class Store(KeyStore):
    """etcd's keys and leases (KeyStore says what each method does). Each call blocks at most CALL_TIMEOUT_S."""

    def __init__(self, settings: StoreSettings) -> None:
        """Check the settings (ConfigError); nothing is dialled before the first call."""
        self._servers = Servers(settings)

    @classmethod
    def of(cls, settings: Settings) -> Store:
        """The store of a host's settings: daemon, commands and doctor reach etcd by the same way."""
        return cls(StoreSettings.of(settings))

    @property
    def name(self) -> str:
        """The endpoints as the user wrote them, for messages."""
        return self._servers.name

    @property
    def servers(self) -> Servers:
        """The servers and the connection to one of them. For this folder, and for doctor."""
        return self._servers

    def close(self) -> None:
        """Drop the connection. The next call connects again."""
        self._servers.close()

    def health_check(self) -> None:
        """Check that the server is alive, and whether certificates were replaced. To be called every second or so.

        A dead connection is closed, which ends the watches on it.
        """
        self._servers.health_check()

    def get(self, key: str) -> KeyValue | None:
        """See KeyStore."""
        request = etcdrpc.RangeRequest(key=key.encode())
        found = self._servers.call(f"get {key}", lambda c: c.kv.Range, request, repeatable=True).kvs
        return key_value(found[0]) if found else None

    def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """See KeyStore."""
        pages = self.pages([prefix])
        return [kv for page in pages for kv in page], pages.revision

    def pages(self, parts: Sequence[str]) -> Pages:
        """See KeyStore."""
        return Pages(self._servers, parts)

    def create(
        self,
        key: str,
        value: bytes,
        *,
        lease_id: int,
        none_below: str | None = None,
        quiet_below: tuple[str, int] | None = None,
        instead_of: str | None = None,
    ) -> bool:
        """See KeyStore."""
        conditions = [_absent(key)]
        if none_below is not None:
            conditions.append(_absent(none_below, below=True))
        if quiet_below is not None:
            conditions.append(_quiet_since(*quiet_below))
        gone = [] if instead_of is None else [_delete(instead_of)]
        return self._put_if(f"create {key}", conditions, key, value, lease_id=lease_id, besides=gone)

    def replace(self, key: str, value: bytes, *, mod_revision: int, lease_id: int) -> bool:
        """See KeyStore."""
        return self._put_if(f"replace {key}", [_unchanged(key, mod_revision)], key, value, lease_id=lease_id)

    def put(self, key: str, value: bytes) -> None:
        """See KeyStore."""
        self._servers.call(f"put {key}", lambda c: c.kv.Put, etcdrpc.PutRequest(key=key.encode(), value=value))

    def delete(self, key: str, *, mod_revision: int) -> bool:
        """See KeyStore."""
        request = etcdrpc.TxnRequest(
            compare=[_unchanged(key, mod_revision)],
            success=[_delete(key)],
        )
        return bool(self._servers.call(f"delete {key}", lambda c: c.kv.Txn, request).succeeded)

    def grant(self, ttl_s: int) -> int:
        """See KeyStore."""
        request = etcdrpc.LeaseGrantRequest(TTL=ttl_s)
        return int(self._servers.call("grant a lease", lambda c: c.leases.LeaseGrant, request).ID)

    def refresh(self, lease_id: int) -> int:
        """See KeyStore."""
        request = etcdrpc.LeaseKeepAliveRequest(ID=lease_id)

        def refresh(connection: Connection) -> Callable[..., Any]:
            def call(message: Any, **kwargs: Any) -> Any:
                # Open until the answer is there: etcd's grpc-proxy ends the stream with the last request.
                requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
                requests.put(message)
                stream = connection.leases.LeaseKeepAlive(iter(requests.get, None), **kwargs)
                try:
                    return next(iter(stream))
                finally:
                    requests.put(None)
                    stream.cancel()

            return call

        return int(self._servers.call("refresh a lease", refresh, request, repeatable=True).TTL)

    def seconds_left(self, lease_id: int) -> int:
        """See KeyStore."""
        return max(0, int(self._time_to_live(lease_id).TTL))

    def granted_ttl(self, lease_id: int) -> int:
        """See KeyStore."""
        answer = self._time_to_live(lease_id)
        return max(0, int(answer.grantedTTL)) if answer.TTL > 0 else 0

    def revoke(self, lease_id: int) -> None:
        """See KeyStore."""
        self._servers.call("revoke a lease", lambda c: c.leases.LeaseRevoke, etcdrpc.LeaseRevokeRequest(ID=lease_id))

    def _time_to_live(self, lease_id: int) -> Any:
        request = etcdrpc.LeaseTimeToLiveRequest(ID=lease_id)
        return self._servers.call("ask about a lease", lambda c: c.leases.LeaseTimeToLive, request, repeatable=True)

    def _put_if(
        self,
        operation: str,
        conditions: Sequence[Any],
        key: str,
        value: bytes,
        *,
        lease_id: int,
        besides: Sequence[Any] = (),
    ) -> bool:
        put = etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=key.encode(), value=value, lease=lease_id))
        request = etcdrpc.TxnRequest(compare=conditions, success=[put, *besides])
        return bool(self._servers.call(operation, lambda c: c.kv.Txn, request).succeeded)


def _absent(key: str, *, below: bool = False) -> Any:
    return etcdrpc.Compare(
        result=etcdrpc.Compare.EQUAL,
        target=etcdrpc.Compare.VERSION,
        key=key.encode(),
        range_end=prefix_end(key) if below else b"",
        version=0,
    )


def _quiet_since(prefix: str, revision: int) -> Any:
    return etcdrpc.Compare(
        result=etcdrpc.Compare.LESS,
        target=etcdrpc.Compare.MOD,
        key=prefix.encode(),
        range_end=prefix_end(prefix),
        mod_revision=revision + 1,
    )


def _delete(key: str) -> Any:
    return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=key.encode()))


def _unchanged(key: str, mod_revision: int) -> Any:
    return etcdrpc.Compare(
        result=etcdrpc.Compare.EQUAL, target=etcdrpc.Compare.MOD, key=key.encode(), mod_revision=mod_revision
    )

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
from overlayd.store.protocol import KeyValue
from overlayd.store.rpc import etcdrpc
from overlayd.store.servers import Servers

if TYPE_CHECKING:
    from overlayd.settings import Settings


class Store:
    """etcd's keys and leases. All methods may be called from any thread; each blocks at most CALL_TIMEOUT_S."""

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
        """The connection, for those in this folder."""
        return self._servers

    def close(self) -> None:
        """Drop the connection. The next call dials anew."""
        self._servers.close()

    def health_check(self) -> None:
        """Look after the connection, every second or so: is the server alive, have its certificates been replaced?

        A connection that is no good any more is closed, which ends the watches on it.
        """
        self._servers.health_check()

    def get(self, key: str) -> KeyValue | None:
        """The key, or None."""
        request = etcdrpc.RangeRequest(key=key.encode())
        found = self._servers.call(f"get {key}", lambda c: c.kv.Range, request, repeatable=True).kvs
        return key_value(found[0]) if found else None

    def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Every key below `prefix`, and the revision at which they all were so."""
        pages = self.pages([prefix])
        return [kv for page in pages for kv in page], pages.revision

    def pages(self, parts: Sequence[str]) -> Pages:
        """Several parts of etcd, as they all were at one revision, some hundred keys at a time.

        A part that ends in `/` is every key below it, any other one key: a role needs rights on no more than that.
        """
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
        """Write the key if nobody has; False when somebody was first. Atomic.

        Also False where a key begins with `none_below`, or where one that begins with the first of `quiet_below` was
        written after the revision that is its second. `instead_of` is a key that is deleted in the same moment.
        """
        conditions = [_absent(key)]
        if none_below is not None:
            conditions.append(_absent(none_below, below=True))
        if quiet_below is not None:
            conditions.append(_quiet_since(*quiet_below))
        gone = [] if instead_of is None else [_delete(instead_of)]
        return self._put_if(f"create {key}", conditions, key, value, lease_id=lease_id, besides=gone)

    def replace(self, key: str, value: bytes, *, mod_revision: int, lease_id: int) -> bool:
        """Write the key if it is still as it was at `mod_revision`; False when it has changed or gone. Atomic."""
        return self._put_if(f"replace {key}", [_unchanged(key, mod_revision)], key, value, lease_id=lease_id)

    def put(self, key: str, value: bytes) -> None:
        """Write the key, whatever was there."""
        self._servers.call(f"put {key}", lambda c: c.kv.Put, etcdrpc.PutRequest(key=key.encode(), value=value))

    def delete(self, key: str, *, mod_revision: int) -> bool:
        """Remove the key if it is still as it was at `mod_revision`. Atomic."""
        request = etcdrpc.TxnRequest(
            compare=[_unchanged(key, mod_revision)],
            success=[_delete(key)],
        )
        return bool(self._servers.call(f"delete {key}", lambda c: c.kv.Txn, request).succeeded)

    def grant(self, ttl_s: int) -> int:
        """A new etcd lease of `ttl_s` seconds by etcd's clock; its id."""
        request = etcdrpc.LeaseGrantRequest(TTL=ttl_s)
        return int(self._servers.call("grant a lease", lambda c: c.leases.LeaseGrant, request).ID)

    def refresh(self, lease_id: int) -> int:
        """Prolong an etcd lease by its own TTL. Returns the seconds left; 0 when there is no such lease any more."""
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
        """How long an etcd lease still lives if nobody prolongs it; 0 when there is none any more."""
        request = etcdrpc.LeaseTimeToLiveRequest(ID=lease_id)
        return max(
            0,
            int(
                self._servers.call(
                    "ask about a lease", lambda c: c.leases.LeaseTimeToLive, request, repeatable=True
                ).TTL
            ),
        )

    def granted_ttl(self, lease_id: int) -> int:
        """For how long an etcd lease is prolonged each time; 0 when there is none."""
        request = etcdrpc.LeaseTimeToLiveRequest(ID=lease_id)
        answer = self._servers.call("ask about a lease", lambda c: c.leases.LeaseTimeToLive, request, repeatable=True)
        return max(0, int(answer.grantedTTL)) if answer.TTL > 0 else 0

    def revoke(self, lease_id: int) -> None:
        """End an etcd lease, and with it every key that hangs on it."""
        self._servers.call("revoke a lease", lambda c: c.leases.LeaseRevoke, etcdrpc.LeaseRevokeRequest(ID=lease_id))

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

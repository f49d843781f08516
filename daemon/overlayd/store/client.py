"""etcd as overlayd uses it: a few atomic operations with deadlines, on python-etcd3's channel and messages.

python-etcd3's own methods have no deadlines, drop revisions and never log in again, so the raw requests of its gRPC API
are sent here; nothing outside this folder sees gRPC or etcd3. Every failure is a StoreError that names the operation
and the endpoints.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from overlayd.errors import ConfigError, StoreDenied, StoreError
from overlayd.store import protos
from overlayd.store.endpoints import Target, parse_endpoint, target

protos.install()

import etcd3  # noqa: E402
from etcd3 import etcdrpc  # noqa: E402

__all__ = ["CALL_TIMEOUT_S", "KeyValue", "Store", "StoreSettings", "etcdrpc", "jittered", "prefix_end"]

CALL_TIMEOUT_S = 5.0
# Measured: these find a dead or frozen server in about 3 s; gRPC's defaults take minutes.
CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 3000),
    ("grpc.max_receive_message_length", 256 * 1024 * 1024),
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
)


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """How to reach etcd. Paths are PEM files; the password never appears in a repr."""

    endpoints: tuple[str, ...]
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class KeyValue:
    """One key as etcd has it. `lease_id` is 0 where the key hangs on no lease."""

    key: str
    value: bytes
    mod_revision: int
    lease_id: int


class Store:
    """A connection to etcd. All methods may be called from any thread; each blocks at most CALL_TIMEOUT_S."""

    def __init__(self, settings: StoreSettings) -> None:
        """Check the settings (ConfigError); nothing is dialled before the first call."""
        self._settings = settings
        self._endpoints = tuple(parse_endpoint(text) for text in settings.endpoints)
        if bool(settings.username) != bool(settings.password):
            raise ConfigError("etcd-username and etcd-password go together; only one is set")
        if bool(settings.certfile) != bool(settings.keyfile):
            raise ConfigError("etcd-certfile and etcd-keyfile go together; only one is set")
        if self._endpoints and self._endpoints[0].tls and not settings.cafile:
            raise ConfigError("etcd-endpoints use https:// but no CA is given", hint="set etcd-cafile")
        for label in ("cafile", "certfile", "keyfile"):
            path = getattr(settings, label)
            if path and not Path(path).is_file():
                raise ConfigError(f"etcd-{label}: {path} is not a file")
        target(self._endpoints, lambda _name: ["192.0.2.1"])
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def name(self) -> str:
        """The endpoints as the user wrote them, for messages."""
        return ",".join(self._settings.endpoints)

    def close(self) -> None:
        """Drop the connection. The next call dials anew."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def get(self, key: str) -> KeyValue | None:
        """The key, or None."""
        found, _revision = self._range(f"get {key}", etcdrpc.RangeRequest(key=key.encode()))
        return found[0] if found else None

    def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Every key below `prefix`, and the revision at which they all were so."""
        request = etcdrpc.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix))
        return self._range(f"list {prefix}", request)

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
        self._call(f"put {key}", lambda c: c.kvstub.Put, etcdrpc.PutRequest(key=key.encode(), value=value))

    def delete(self, key: str, *, mod_revision: int) -> bool:
        """Remove the key if it is still as it was at `mod_revision`. Atomic."""
        request = etcdrpc.TxnRequest(
            compare=[_unchanged(key, mod_revision)],
            success=[_delete(key)],
        )
        return bool(self._call(f"delete {key}", lambda c: c.kvstub.Txn, request).succeeded)

    def grant(self, ttl_s: int) -> int:
        """A new etcd lease of `ttl_s` seconds by etcd's clock; its id."""
        request = etcdrpc.LeaseGrantRequest(TTL=ttl_s)
        return int(self._call("grant a lease", lambda c: c.leasestub.LeaseGrant, request).ID)

    def refresh(self, lease_id: int) -> int:
        """Prolong an etcd lease by its own TTL. Returns the seconds left; 0 when there is no such lease any more."""
        request = etcdrpc.LeaseKeepAliveRequest(ID=lease_id)

        def refresh(client: Any) -> Callable[..., Any]:
            def call(message: Any, **kwargs: Any) -> Any:
                stream = client.leasestub.LeaseKeepAlive(iter([message]), **kwargs)
                try:
                    return next(iter(stream))
                finally:
                    stream.cancel()

            return call

        return int(self._call("refresh a lease", refresh, request).TTL)

    def seconds_left(self, lease_id: int) -> int:
        """How long an etcd lease still lives if nobody prolongs it; 0 when there is none any more."""
        request = etcdrpc.LeaseTimeToLiveRequest(ID=lease_id)
        return max(0, int(self._call("ask about a lease", lambda c: c.leasestub.LeaseTimeToLive, request).TTL))

    def revoke(self, lease_id: int) -> None:
        """End an etcd lease, and with it every key that hangs on it."""
        self._call("revoke a lease", lambda c: c.leasestub.LeaseRevoke, etcdrpc.LeaseRevokeRequest(ID=lease_id))

    def open_watch(self, requests: Any) -> Any:
        """The raw stream of a watch, for watch.py. Errors come from iterating over it."""
        client = self._connect()
        # hasleader: a server cut off from its cluster ends the stream instead of staying silent.
        metadata = (*(client.metadata or ()), ("hasleader", "true"))
        try:
            return etcdrpc.WatchStub(client.channel).Watch(requests, metadata=metadata)
        except ValueError as error:
            raise StoreError(f"etcd at {self.name}: watch: the connection was closed") from error

    def failure(self, operation: str, error: grpc.RpcError) -> StoreError:
        """A gRPC error as a StoreError in words for the user. A login that is no longer good is forgotten."""
        code = error.code() if hasattr(error, "code") else None
        detail = (error.details() if hasattr(error, "details") else None) or str(error)
        # gRPC tells of its load balancing first; what happened comes last.
        detail = detail.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
        if _login_expired(code, detail):
            self.close()
        word = code.name if code is not None else "error"
        hint = {
            "UNAVAILABLE": "is etcd running, and can this host reach it?",
            "DEADLINE_EXCEEDED": "is etcd running, and can this host reach it?",
            "PERMISSION_DENIED": "grant the user a role that may read and write the prefix",
            "INVALID_ARGUMENT": "check etcd-username and etcd-password" if "auth" in detail else None,
        }.get(word)
        kind = StoreDenied if word == "PERMISSION_DENIED" else StoreError
        return kind(f"etcd at {self.name}: {operation}: {word}: {detail}", hint=hint)

    def _range(self, operation: str, request: Any) -> tuple[list[KeyValue], int]:
        response = self._call(operation, lambda c: c.kvstub.Range, request)
        return [_key_value(kv) for kv in response.kvs], int(response.header.revision)

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
        return bool(self._call(operation, lambda c: c.kvstub.Txn, request).succeeded)

    def _call(self, operation: str, method: Callable[[Any], Callable[..., Any]], request: Any) -> Any:
        for attempt in (1, 2):
            client = self._connect()
            try:
                return method(client)(request, timeout=CALL_TIMEOUT_S, metadata=client.metadata)
            except grpc.RpcError as error:
                # A restarted etcd has forgotten our token: log in again, once.
                if attempt == 1 and self._settings.username and _login_expired(error.code(), error.details() or ""):
                    self.close()
                    continue
                raise self.failure(operation, error) from error
            except StopIteration as error:
                raise StoreError(f"etcd at {self.name}: {operation}: the stream ended without an answer") from error
            except ValueError as error:
                # What gRPC raises on a channel that another thread has closed meanwhile, to log in again.
                raise StoreError(f"etcd at {self.name}: {operation}: the connection was closed") from error
        raise AssertionError("unreachable")

    def _connect(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._dial()
            return self._client

    def _dial(self) -> Any:
        settings = self._settings
        try:
            where = target(self._endpoints, _resolve)
        except OSError as error:
            raise StoreError(f"etcd at {self.name}: cannot look up the name: {error}") from error
        # etcd3 joins the two with a colon again, and takes any gRPC target that way.
        host, _, port = where.address.rpartition(":")
        try:
            return etcd3.client(
                host=host,
                port=int(port),
                ca_cert=settings.cafile if where.tls else None,
                cert_cert=settings.certfile if where.tls else None,
                cert_key=settings.keyfile if where.tls else None,
                user=settings.username,
                password=settings.password,
                timeout=CALL_TIMEOUT_S,
                grpc_options=_options(where),
            )
        except grpc.RpcError as error:
            raise self.failure("log in", error) from error
        except OSError as error:
            raise StoreError(f"etcd at {self.name}: cannot read a certificate or key: {error}") from error


def prefix_end(prefix: str) -> bytes:
    """The first key after every key that starts with `prefix`; etcd's range ends are exclusive."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])


def jittered(delay_s: float) -> float:
    """A delay between half and the whole of `delay_s`, so that a fleet does not come back all at once."""
    return delay_s * (0.5 + random.random() / 2)


def _options(where: Target) -> list[tuple[str, Any]]:
    extra = [("grpc.ssl_target_name_override", where.server_name)] if where.server_name else []
    return [*CHANNEL_OPTIONS, *extra]


def _resolve(host: str) -> Sequence[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in found})


def _login_expired(code: Any, detail: str) -> bool:
    return code is grpc.StatusCode.UNAUTHENTICATED or "invalid auth token" in detail


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


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(
        key=kv.key.decode("utf-8", "replace"),
        value=bytes(kv.value),
        mod_revision=int(kv.mod_revision),
        lease_id=int(kv.lease),
    )

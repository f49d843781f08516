"""One connection to one etcd server, and the login on it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from overlayd.errors import StoreError
from overlayd.lib.log import logger
from overlayd.store.access import StoreSettings
from overlayd.store.endpoints import EtcdEndpoint
from overlayd.store.resolve import Addresses
from overlayd.store.rpc import etcdrpc, grpc
from overlayd.store.trust import Trust

log = logger("store")

Metadata = tuple[tuple[str, str], ...]

RECEIVED_AT_MOST = 8 * 1024 * 1024
# Measured: these find a dead or frozen server in seconds; gRPC's defaults take minutes. More than one ping in 5 s is
# more than etcd allows (--grpc-keepalive-min-time).
CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name: how long one attempt to connect may take, until TLS and HTTP/2 are set up.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # Lists come in pages and large watch responses in fragments: no message is larger.
    ("grpc.max_receive_message_length", RECEIVED_AT_MOST),
    # Else each answer brings a ping of its own to measure the line (BDP), which wakes gRPC's threads once more. So the
    # window does not grow: it is as large as a page.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
    # A new connection is new: neither the old one's credentials nor its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # A name may stand for several servers; all calls go to one of them, not the same one from every host.
    ("grpc.service_config", '{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}'),
    # http_proxy and its like, of a shell or of systemd's DefaultEnvironment=, are for the web: etcdctl ignores them.
    ("grpc.enable_http_proxy", 0),
)


class Connection:
    """A channel and etcd's services on it. Nothing is dialled before the first call; gRPC reconnects by itself.

    Any thread may use it. After `close`, calls under way end as CANCELLED, and new ones raise ValueError.
    """

    def __init__(self, endpoint: EtcdEndpoint, trust: Trust | None, addresses: Addresses = ()) -> None:
        """`addresses`, all of one family, are those of the endpoint's name; none where it is an address itself."""
        self.endpoint = endpoint
        self.trust = trust
        self.addresses = addresses
        target, options = _target(endpoint, addresses), [*CHANNEL_OPTIONS]
        if addresses:
            # The name, not the address, is in etcd's certificate and in the requests.
            option = "grpc.default_authority" if trust is None else "grpc.ssl_target_name_override"
            options.append((option, f"{endpoint.host}:{endpoint.port}" if trust is None else endpoint.host))
        if trust is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            credentials = grpc.ssl_channel_credentials(trust.ca, trust.key, trust.certificate)
            self._channel = grpc.secure_channel(target, credentials, options)
        self.kv = etcdrpc.KVStub(self._channel)
        self.leases = etcdrpc.LeaseStub(self._channel)
        self.watches = etcdrpc.WatchStub(self._channel)
        self.auth = etcdrpc.AuthStub(self._channel)

    def close(self) -> None:
        """Close the channel. Harmless when called again."""
        self._channel.close()

    def health_problem(self, timeout_s: float, *, alone: bool = True) -> str | None:
        """Send the server a small read. None when it answered, else what went wrong.

        It answers `alone`, or else after asking its cluster. There is no login, as that costs etcd much work: a
        refusal is an answer too.
        """
        try:
            self.kv.Range(etcdrpc.RangeRequest(key=b"/", serializable=alone, count_only=True), timeout=timeout_s)
        except grpc.RpcError as error:
            return details(error) if unreachable(error) else None
        except ValueError:
            return None
        return None


class Login:
    """The token that etcd gives for user and password: asked for when it is first needed, and after `forget`.

    It outlives connections, as a login costs etcd much work. The password's file is read again for each login.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._metadata: Metadata | None = None if settings.username else ()

    def metadata(self, connection: Connection, timeout_s: float) -> Metadata:
        """What a call must carry. Raises grpc.RpcError, StoreError."""
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=timeout_s):
            raise StoreError(f"etcd at {connection.endpoint}: another login takes too long")
        try:
            if self._metadata is None:
                self._metadata = self._log_in(connection, max(0.0, deadline - time.monotonic()))
            return self._metadata
        finally:
            self._lock.release()

    def forget(self, metadata: Metadata | None = None) -> bool:
        """Log in again before the next call, unless another thread has done so since `metadata` was given out.

        Returns whether there is a login at all.
        """
        if not self._settings.username:
            return False
        with self._lock:
            if metadata is None or self._metadata is metadata:
                self._metadata = None
        return True

    def _log_in(self, connection: Connection, timeout_s: float) -> Metadata:
        request = etcdrpc.AuthenticateRequest(name=self._settings.username, password=self._password())
        try:
            return (("token", connection.auth.Authenticate(request, timeout=timeout_s).token),)
        except grpc.RpcError as error:
            if "authentication is not enabled" not in details(error):
                raise
            # As etcd's own clients do. It may be an etcd that came back without its data.
            log.warning("etcd asks nobody for a password; going on without a login")
            return ()

    def _password(self) -> str:
        path = self._settings.password_file
        if path is None:
            return self._settings.password or ""
        try:
            password = Path(path).read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            # Not the error itself, which shows some bytes of a file that is not text.
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise StoreError(f"etcd-password-file: {path} cannot be read: {reason}") from None
        if not password:
            raise StoreError(f"etcd-password-file: {path} is empty")
        return password


def _target(endpoint: EtcdEndpoint, addresses: Addresses) -> str:
    """What gRPC is to dial, without asking DNS by itself."""
    if not addresses:
        return f"{endpoint.dialled_host}:{endpoint.port}"
    if ":" not in addresses[0]:
        return "ipv4:" + ",".join(f"{address}:{endpoint.port}" for address in addresses)
    # A zone, as in fe80::1%eth0, is written as URIs have it (RFC 6874).
    return "ipv6:" + ",".join(f"[{address.replace('%', '%25')}]:{endpoint.port}" for address in addresses)


def details(error: grpc.RpcError) -> str:
    """gRPC's or etcd's own message for a failure. It has no metadata of the call, and so no token."""
    said = (error.details() if hasattr(error, "details") else None) or str(error)
    # gRPC's message begins with its load balancing; what happened comes last.
    return str(said.rpartition("last error: ")[2].removeprefix("UNKNOWN: ").removeprefix("UNAVAILABLE: "))


def unreachable(error: grpc.RpcError) -> bool:
    """Whether another server may do better: this one is dead, frozen, cut off, or has another's certificate."""
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) or is_wrong_name(error)


def is_wrong_name(error: grpc.RpcError) -> bool:
    """Whether gRPC refused the server's name: also where a certificate has it as its common name alone."""
    return "does not match SSL server name" in (error.details() or "")


def no_room(error: grpc.RpcError) -> bool:
    """Whether etcd takes no writes from anybody; it says so before it looks at rights."""
    return "database space exceeded" in (error.details() or "")


def never_sent(error: grpc.RpcError) -> bool:
    """Whether the call certainly did not reach a server, so that it may be made again, whatever it is."""
    said = error.details() or ""
    return error.code() is grpc.StatusCode.UNAVAILABLE and ("last error: " in said or "resolution failed" in said)


def login_expired(error: grpc.RpcError) -> bool:
    """Whether etcd does not know our token any more, or wants one now, or changed its users since it gave it out."""
    said = error.details() or ""
    phrases = ("invalid auth token", "user name is empty", "auth store is old", "revision in header is old")
    if is_wrong_name(error):
        return False
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or any(phrase in said for phrase in phrases)

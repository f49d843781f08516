"""The choice among etcd's servers: one connection at a time, and the next server when that one fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from overlayd.errors import StoreDenied, StoreError, StoreFull
from overlayd.lib.log import logger
from overlayd.store.access import StoreSettings, check
from overlayd.store.connection import (
    Connection,
    Login,
    details,
    is_wrong_name,
    login_expired,
    never_sent,
    no_room,
    unreachable,
)
from overlayd.store.endpoints import EtcdEndpoint
from overlayd.store.resolve import Addresses, NameResolver, Unresolved
from overlayd.store.rpc import grpc
from overlayd.store.trust import TrustFiles

log = logger("store")

CALL_TIMEOUT_S = 5.0
# Where there are other servers: how long one of them may take before another is asked.
SERVER_TIMEOUT_S = 2.0
HEALTH_TIMEOUT_S = 2.5
# A server that has no other beside it is asked less often: each read wakes gRPC's threads some sixty times, as they go
# to sleep in steps of 15 ms and more; and gRPC's own pings find a dead connection within 8 s (connection.py). It gets
# more time, too: it may only be slow, as when a whole fleet starts, and to list again would give it more to do.
LONE_HEALTH_S = 15.0
LONE_HEALTH_TIMEOUT_S = 4.0
# The pause after an attempt with new certificates that did not work.
RENEW_RETRY_S = 5.0

RIGHTS = (
    "grant the user a role with these rights, where PREFIX is etcd-prefix: read PREFIX/config; readwrite of all below "
    "PREFIX/subnets/ and PREFIX/hosts/ (etcdctl role grant-permission --prefix); who sets the network config needs "
    "to write PREFIX/config"
)


class Refused(StoreError):
    """etcd refuses this user's login. Only a person can correct that."""


class TooLarge(StoreError):
    """The answer is larger than what is received at once: ask for less."""


class Compacted(StoreError):
    """The revision that was asked for is no longer kept: list again."""


class Servers:
    """etcd, whichever of its servers answers. All methods may be called from any thread."""

    def __init__(self, settings: StoreSettings) -> None:
        """Check the settings (ConfigError); nothing is dialled before the first call."""
        self._endpoints = check(settings)
        # As the user wrote them.
        self.name = ",".join(settings.endpoints)
        self._trust = (
            TrustFiles(cafile=settings.cafile, certfile=settings.certfile, keyfile=settings.keyfile)
            if self._endpoints[0].tls
            else None
        )
        self._login = Login(settings)
        self._lock = threading.Lock()
        self._names = NameResolver()
        self._connection: Connection | None = None
        self._two_families = False
        # Random, so that the hosts spread over the servers.
        self._turn = random.randrange(len(self._endpoints))
        self._renew_not_before = 0.0
        self._health_read_at = 0.0

    @property
    def endpoint(self) -> EtcdEndpoint | None:
        """The server in use, if one is."""
        connection = self._connection
        return connection.endpoint if connection else None

    def anonymous_connection(self) -> Connection:
        """A new connection to the server in use, without a login and without this host's certificate.

        Raises StoreError. The caller closes it.
        """
        trust = self._trust.read() if self._trust is not None else None
        used = self._connection
        endpoint = used.endpoint if used else self._endpoints[self._turn % len(self._endpoints)]
        addresses = used.addresses if used else self._addresses(endpoint, CALL_TIMEOUT_S)[0]
        return Connection(endpoint, replace(trust, certificate=None, key=None) if trust else None, addresses)

    def close(self) -> None:
        """Drop the connection. The next call connects again."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def call(
        self,
        operation: str,
        method: Callable[[Connection], Callable[..., Any]],
        request: Any,
        *,
        repeatable: bool = False,
    ) -> Any:
        """Call one of etcd's servers, and the next one when it fails and that is safe. Raises StoreError.

        It is safe when the request is `repeatable`, or when it certainly did not reach a server.
        """
        deadline = time.monotonic() + CALL_TIMEOUT_S
        attempts, may_log_in = 0, True
        # Two servers seldom fail at the same time: the second one gets all the time that is left.
        full_timeout = False
        while True:
            attempts += 1
            try:
                connection, metadata = self._connect(self._timeout_s(full_timeout, deadline)), None
            except Unresolved:
                full_timeout = True
                if attempts >= self._attempts_at_most or time.monotonic() >= deadline:
                    raise
                continue
            timeout_s = self._timeout_s(full_timeout, deadline)
            try:
                metadata = self._login.metadata(connection, timeout_s)
                return method(connection)(request, timeout=timeout_s, metadata=metadata)
            except grpc.RpcError as error:
                if may_log_in and metadata is not None and login_expired(error) and self._login.forget(metadata):
                    may_log_in = False
                    continue
                full_timeout = True
                replaced = connection is not self._connection
                unsent = metadata is None or never_sent(error)
                if unreachable(error):
                    self._give_up(connection, error)
                elif replaced:
                    # Another thread closed the connection: that does not count as an attempt with the next server.
                    attempts -= 1
                else:
                    raise self.failure(operation, error) from error
                if attempts >= self._attempts_at_most or time.monotonic() >= deadline or not (repeatable or unsent):
                    raise self.failure(operation, error) from error
            except StopIteration as error:
                raise StoreError(f"etcd at {self.name}: {operation}: the stream ended without an answer") from error
            except ValueError as error:
                # gRPC raises this on a channel that another thread has closed meanwhile: nothing was sent.
                if attempts >= self._attempts_at_most:
                    raise StoreError(f"etcd at {self.name}: {operation}: the connection was closed") from error

    def reach(self, timeout_s: float) -> Connection:
        """A connection to a server that is healthy in its cluster. Raises StoreError with the server's message alone.

        It is for a store with one endpoint, to find out whether the daemon could use that server.
        """
        problem: str | None = ""
        for _family in range(2):
            connection = self._connect(timeout_s)
            problem = connection.health_problem(timeout_s, alone=False)
            if problem is None:
                return connection
            self._drop(connection)
            if not self._two_families:
                break
        raise StoreError(str(problem))

    def health_check(self) -> None:
        """See Store.health_check."""
        connection = self._connection
        if connection is None:
            return
        if self._trust is not None and connection.trust is not None and self._trust.changed_since(connection.trust):
            self._renew(connection)
        now = time.monotonic()
        if self._alone and now - self._health_read_at < LONE_HEALTH_S:
            return
        self._health_read_at = now
        timeout_s = LONE_HEALTH_TIMEOUT_S if self._alone else HEALTH_TIMEOUT_S
        if connection is self._connection and connection.health_problem(timeout_s) is not None:
            self._drop(connection)

    def open_watch(self, requests: Any) -> Any:
        """The raw stream of a watch, for watch.py. Raises StoreError; iterating over it raises grpc.RpcError."""
        connection = self._connect(CALL_TIMEOUT_S)
        try:
            metadata = self._login.metadata(connection, CALL_TIMEOUT_S)
            # hasleader: a server cut off from its cluster ends the stream instead of staying silent.
            return connection.watches.Watch(requests, metadata=(*metadata, ("hasleader", "true")))
        except grpc.RpcError as error:
            raise self.failure("log in", error) from error
        except ValueError as error:
            raise StoreError(f"etcd at {self.name}: watch: the connection was closed") from error

    def forget_login(self) -> None:
        """Log in again before the next call."""
        self._login.forget()

    def failure(self, operation: str, error: grpc.RpcError) -> StoreError:
        """A gRPC error as a StoreError with a message for the user. A login that has expired is forgotten."""
        code, detail = error.code(), details(error)
        if login_expired(error):
            self._login.forget()
        word = code.name if code is not None else "error"
        hint = {
            "UNAVAILABLE": "is etcd running, and can this host reach it?",
            "DEADLINE_EXCEEDED": "is etcd running, and can this host reach it?",
            "PERMISSION_DENIED": RIGHTS,
            "INVALID_ARGUMENT": "check etcd-username and its password" if "auth" in detail else None,
        }.get(word)
        if "user name is empty" in detail:
            hint = "etcd wants a login: set etcd-username and etcd-password-file"
        elif "TSI_" in detail or "erification" in detail or is_wrong_name(error):
            # gRPC's words for TLS. A server that refuses our certificate closes the connection: TSI_DATA_CORRUPTED.
            hint = "check etcd-cafile, etcd-certfile and etcd-keyfile, and the names in etcd's certificate"
        elif "for learner" in detail:
            hint = "a learner does not answer for its cluster: name the voting members (etcdctl member list)"
        kinds = {"PERMISSION_DENIED": StoreDenied, "INVALID_ARGUMENT": Refused, "UNAUTHENTICATED": Refused}
        kind = kinds.get(word, StoreError)
        if is_wrong_name(error):
            kind = StoreError
        # RESOURCE_EXHAUSTED and OUT_OF_RANGE have other meanings too, so the text decides.
        if word == "RESOURCE_EXHAUSTED" and "larger than max" in detail:
            kind = TooLarge
        elif no_room(error):
            kind, hint = StoreFull, StoreFull.HINT
        elif word == "OUT_OF_RANGE" and "compacted" in detail:
            kind = Compacted
        return kind(f"etcd at {self.name}: {operation}: {word}: {detail}", hint=hint)

    @property
    def _alone(self) -> bool:
        """Whether there is no other server, and no other address family to reach this one by."""
        return len(self._endpoints) == 1 and not self._two_families

    @property
    def _attempts_at_most(self) -> int:
        """So many connections are tried for one call: to each server, in each address family that its name has."""
        return max(2, len(self._endpoints) * (2 if self._two_families else 1))

    def _timeout_s(self, full_timeout: bool, deadline: float) -> float:
        """How long to wait for the next server: less where there is another connection to try."""
        many = len(self._endpoints) > 1 or self._two_families
        return min(
            CALL_TIMEOUT_S if full_timeout or not many else SERVER_TIMEOUT_S, max(0.0, deadline - time.monotonic())
        )

    def _connect(self, timeout_s: float) -> Connection:
        """The connection in use, or a new one to the next server. Raises StoreError."""
        while True:
            with self._lock:
                if self._connection is not None:
                    return self._connection
                turn = self._turn
            endpoint = self._endpoints[turn % len(self._endpoints)]
            trust = self._trust.read() if self._trust is not None else None
            try:
                # Not under the lock, as DNS may be slow. After a round of all servers, the other family is tried.
                families = self._addresses(endpoint, timeout_s)
            except Unresolved as error:
                with self._lock:
                    self._turn += self._turn == turn
                raise Unresolved(f"etcd at {self.name}: {error.message}", hint=error.hint) from error
            with self._lock:
                if self._connection is None and self._turn == turn:
                    addresses = families[turn // len(self._endpoints) % len(families)]
                    self._connection = Connection(endpoint, trust, addresses)
                    self._two_families |= len(families) > 1

    def _addresses(self, endpoint: EtcdEndpoint, timeout_s: float) -> tuple[Addresses, ...]:
        return self._names.families(endpoint.host, timeout_s) if endpoint.is_name else ((),)

    def _drop(self, connection: Connection) -> None:
        """Close a connection and go on to the next server, unless another thread has done so already."""
        with self._lock:
            if self._connection is connection:
                self._connection, self._turn = None, self._turn + 1
        connection.close()

    def _give_up(self, connection: Connection, error: grpc.RpcError) -> None:
        """Go on to the next server. One that is only slow, and has none beside it, keeps what else waits for it: above
        all the watches, after whose end all would be listed again."""
        if not self._alone or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            self._drop(connection)

    def _renew(self, old: Connection) -> None:
        """Replace a connection by one with the new certificates, when a server has answered on that."""
        if self._trust is None or time.monotonic() < self._renew_not_before:
            return
        trust = self._trust.read()
        if trust == old.trust:
            # The files have new times but the same content, or cannot be used yet.
            old.trust = trust
            return
        new = Connection(old.endpoint, trust, old.addresses)
        problem = new.health_problem(HEALTH_TIMEOUT_S)
        if problem is not None:
            new.close()
            self._renew_not_before = time.monotonic() + RENEW_RETRY_S
            log.warning("the new certificates do not work; the connection with the old ones stays", problem=problem)
            return
        with self._lock:
            current = self._connection is old
            if current:
                self._connection = new
        (old if current else new).close()
        log.info("connected again, with the new certificates")

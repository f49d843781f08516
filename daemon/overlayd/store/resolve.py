"""Resolves the names of etcd's servers as this host does (getaddrinfo: /etc/hosts, DNS and others).

gRPC's own resolver asks DNS for the IPv6 address of a name that /etc/hosts has with IPv4 alone. It also begins anew
with each channel, so that the answer of a DNS that takes longer than a call would always be lost.
"""

from __future__ import annotations

import socket
import threading
import time
from ipaddress import ip_address

from overlayd.errors import StoreError

# An answer that came after its caller gave up is used for the next caller, for so long.
FRESH_S = 30.0

Addresses = tuple[str, ...]


class Unresolved(StoreError):
    """A name has no address, or none was found in time. Another server may do better."""


class NameResolver:
    """Resolves names in threads of its own. Callers that ask for a name at the same time share one lookup."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lookups: dict[str, _Lookup] = {}

    def families(self, host: str, timeout_s: float) -> tuple[Addresses, ...]:
        """The addresses of `host`, those of one family together, in the order in which this host prefers them.

        Raises Unresolved, after `timeout_s` at the latest; the lookup goes on, and the next caller has its answer.
        """
        with self._lock:
            lookup = self._lookups.get(host)
            if lookup is None or lookup.is_stale():
                lookup = self._lookups[host] = _Lookup(host)
        if not lookup.done.wait(timeout_s):
            raise Unresolved(f"{host}: no answer from this host's name servers within {timeout_s:.0f} s", hint=_HINT)
        with self._lock:
            if self._lookups.get(host) is lookup:
                del self._lookups[host]
        if lookup.problem is not None:
            raise Unresolved(f"{host}: {lookup.problem}", hint=_HINT)
        found = lookup.found
        preferred = ip_address(found[0].partition("%")[0]).version
        same = tuple(one for one in found if ip_address(one.partition("%")[0]).version == preferred)
        others = tuple(one for one in found if one not in same)
        return (same, others) if others else (same,)


_HINT = "check the name in etcd-endpoints, /etc/hosts and /etc/resolv.conf: getent ahosts NAME"


class _Lookup:
    """One lookup, in a thread of its own: getaddrinfo(3) knows no deadline."""

    def __init__(self, host: str) -> None:
        self.done = threading.Event()
        self.found: Addresses = ()
        self.problem: str | None = None
        self._done_at = 0.0
        threading.Thread(target=self._run, args=(host,), name="etcd-name", daemon=True).start()

    def is_stale(self) -> bool:
        return self.done.is_set() and time.monotonic() - self._done_at > FRESH_S

    def _run(self, host: str) -> None:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            self.found = tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))
            if not self.found:
                self.problem = "no address"
        except (OSError, UnicodeError) as error:
            self.problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self._done_at = time.monotonic()
        self.done.set()

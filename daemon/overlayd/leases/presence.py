"""Which host publishes an address: each daemon writes that into etcd while it runs, so that duplicates are noticed.

A lease does not show it: it outlives its host by a day, and the next host with its address takes it over, as with
flannel. So every daemon also keeps a key under `<prefix>/hosts/<address>` (a presence), which ends half a minute after
the daemon. Flannel does not read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Collection
from pathlib import Path

from overlayd import __version__
from overlayd.errors import AddressTaken, StoreDenied, StoreError, StoreFull
from overlayd.leases.keys import Keys
from overlayd.lib import marks
from overlayd.lib.addresses import IPAddress, ip_address
from overlayd.lib.log import logger
from overlayd.lib.periodic import Periodic
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain, sanitized
from overlayd.store.protocol import KeyStore, KeyValue

log = logger("presence")

TTL_S = 30
REFRESH_S = 10.0
RETRY_S = 3.0
# After so many lost races for the key, one after the other, it is left alone until the next refresh.
ATTEMPTS = 5
# etcd may make a TTL longer than was asked for (a multiple of its election timeout), but not by as much.
LONGEST_TTL_S = 600
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK_NAMESPACE = Path("/proc/self/ns/net")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One network, by its number, in one network stack of one boot of one kernel.

    Cloned machines do not share it, whatever else they do.
    """

    hostname: str
    id: str

    def value(self, containers: Collection[IPAddress] = ()) -> bytes:
        """The JSON that goes under the key; `containers` are addresses of one here that answers echoes."""
        document: dict[str, object] = {"Hostname": self.hostname, "ID": self.id, "Version": __version__}
        if containers:
            document["Containers"] = list(map(str, containers))
        return json.dumps(document).encode()


def this_host() -> Identity:
    """The identity of the host that this process is on."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    namespace = os.stat(_NETWORK_NAMESPACE).st_ino  # noqa: PTH116  (of what the link leads to)
    digest = hashlib.sha256(f"overlayd {boot} {namespace}{marks.ours().flag}".encode()).hexdigest()
    return Identity(hostname=socket.gethostname(), id=digest[:16])


def parse_identity(value: bytes) -> Identity:
    """The identity in a presence; `?` where the bytes name none. Never raises."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(value)
        if isinstance(found, dict):
            return Identity(hostname=_word(found.get("Hostname")), id=_word(found.get("ID")))
    return Identity(hostname="?", id="?")


def probed_address(value: bytes, version: int) -> IPAddress | None:
    """The address of the container that a host's prober sends from, in one IP version; None where there is none."""
    with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError, KeyError):
        for text in json.loads(value)["Containers"]:
            address = ip_address(str(text))
            if address.version == version:
                return address
    return None


def other_at(store: KeyStore, keys: Keys, address: IPAddress, identity: Identity) -> Identity | None:
    """Another host than `identity` that publishes an address now; None where there is none or etcd's roles hide it.

    Raises StoreError.
    """
    with contextlib.suppress(StoreDenied):
        found = store.get(keys.host(address))
        # A key without an expiring etcd lease does not show that its writer runs.
        if found is not None and found.lease_id and store.granted_ttl(found.lease_id) <= LONGEST_TTL_S:
            holder = parse_identity(found.value)
            return holder if holder.id != identity.id else None
    return None


def _word(found: object) -> str:
    return plain(found if isinstance(found, str) else sanitized(found)) if found else "?"


class Presence:
    """This host's claim to one address. `problem` says so while another host publishes the address too."""

    def __init__(self, store: KeyStore, keys: Keys, address: IPAddress, identity: Identity) -> None:
        self._store = store
        self._key = keys.host(address)
        self.address = address
        self._identity = identity
        self._lease_id = 0
        self.problem: str | None = None
        self.containers: tuple[IPAddress, ...] = ()
        """Addresses of a container here that answers; written at the next refresh, REFRESH_S later at most."""
        self._periodic = Periodic("presence", self._refresh, interval_s=REFRESH_S, retry_s=RETRY_S)

    def claim(self) -> None:
        """Write the presence, and keep it until `release`.

        Raises AddressTaken, which names both hosts, and StoreError. Where etcd's roles forbid the key,
        there is none; where etcd has no room, it is written when there is room again.
        """
        try:
            self._lease_id = self._hold()
        except StoreDenied as error:
            log.warning(
                "two hosts with one address would not be noticed, nor does `overlayd lease` see that this host lives",
                problem=error.message,
                hint=error.hint,
            )
            return
        except StoreFull as error:
            log.warning(
                "until etcd has room, two hosts with one address would not be noticed",
                problem=error.message,
                hint=error.hint,
            )
        self._periodic.start()

    def release(self) -> None:
        """Remove the presence; while etcd is away, it ends by itself. Never raises."""
        self._periodic.stop()
        if self._lease_id:
            with contextlib.suppress(StoreError):
                self._store.revoke(self._lease_id)
            self._lease_id = 0

    def _refresh(self) -> None:
        if self._lease_id and self._store.refresh(self._lease_id) > 0:
            found = self._store.get(self._key)
            if (
                found is not None
                and found.lease_id == self._lease_id
                and parse_identity(found.value).id == self._identity.id
            ):
                self.problem = None
                value = self._identity.value(self.containers)
                if found.value != value:
                    # A lost race is noticed at the next refresh.
                    self._store.replace(self._key, value, mod_revision=found.mod_revision, lease_id=self._lease_id)
                return
            # Somebody deleted the key, or wrote over it: the etcd lease holds no claim any more.
            self._store.revoke(self._lease_id)
        self._lease_id = 0
        try:
            self._lease_id = self._hold()
            self.problem = None
        except StoreFull as error:
            # Tried again after an interval, not sooner: all hosts are in the same situation.
            log.debug("etcd has no room yet", problem=error.message)
        except AddressTaken as error:
            # The other host came while etcd was away. The data path stays: a person must decide which host changes.
            if self.problem is None:
                log.error("another host publishes this host's address", problem=error.message, hint=error.hint)
            self.problem = error.message

    def _hold(self) -> int:
        for _attempt in range(ATTEMPTS):
            found = self._store.get(self._key)
            lease_id = self._create() if found is None else self._take_up(found)
            if lease_id:
                return lease_id
        raise StoreError(f"{self._key} in etcd changes all the time", hint="find out who writes it")

    def _create(self) -> int:
        lease_id = self._store.grant(TTL_S)
        try:
            if self._store.create(self._key, self._identity.value(self.containers), lease_id=lease_id):
                return lease_id
        except StoreError:
            with contextlib.suppress(StoreError):
                self._store.revoke(lease_id)
            raise
        self._store.revoke(lease_id)
        return 0

    def _take_up(self, found: KeyValue) -> int:
        """Go on with the key of this host's last run, which ended without removing it. Raises AddressTaken, StoreError.

        A key without an expiring etcd lease does not show that its writer runs: it is taken over.
        """
        granted_s = self._store.granted_ttl(found.lease_id) if found.lease_id else 0
        if not found.lease_id or granted_s > LONGEST_TTL_S:
            log.warning(
                "another key stands in place of this host's, and would not end with its host; it is taken over",
                key=self._key,
            )
            return self._take_over(found)
        holder = parse_identity(found.value)
        if holder.id != self._identity.id:
            raise AddressTaken(
                f"{self.address} is published by host {holder.hostname} ({holder.id}) already; this is host "
                f"{self._identity.hostname} ({self._identity.id})",
                hint="give one of them another address, or set iface or public-ip there; if that host is gone, this "
                f"one goes on within {TTL_S} s; if there is none, somebody else keeps this key in etcd: find out who, "
                f"and etcdctl del {self._key}",
            )
        return found.lease_id if self._store.refresh(found.lease_id) > 0 else 0

    def _take_over(self, found: KeyValue) -> int:
        lease_id, taken = self._store.grant(TTL_S), False
        try:
            taken = self._store.replace(
                self._key, self._identity.value(self.containers), mod_revision=found.mod_revision, lease_id=lease_id
            )
        finally:
            if not taken:
                with contextlib.suppress(StoreError):
                    self._store.revoke(lease_id)
        return lease_id if taken else 0

"""The users of an overlay network in etcd, and the rights of each. Stated here and nowhere else. Pure: no I/O.

A host has the fewest with which its daemon works (tests/kernel/test_etcd_rights.py takes each away). It may read the
network config and not write it: who can write it can move the packets of all hosts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

PREFIX = "/coreos.com/network"
HOST = "overlayd"
_KINDS = ("read", "write", "readwrite")


class Right(NamedTuple):
    """The right to `read`, `write` or `readwrite` one key, or all keys from `key` up to `end`."""

    kind: str
    key: str
    end: str = ""

    def words(self) -> list[str]:
        """The words that follow `etcdctl role grant-permission ROLE`."""
        return [self.kind, self.key, *([self.end] if self.end else [])]

    def place(self) -> list[str]:
        """The words that follow `etcdctl role revoke-permission ROLE`."""
        return self.words()[1:]

    def within(self, prefix: str) -> bool:
        """Whether it is about keys of this network only."""
        behind = _after(f"{prefix}/")
        # The right that `grant-permission --prefix PREFIX` without the last slash grants counts too.
        return prefix <= self.key < behind and (not self.end or self.key < self.end <= max(behind, _after(prefix)))


def of(prefix: str, host: str = HOST) -> dict[str, list[Right]]:
    """The rights by role, for the network that is kept below `prefix`. Each role's one user has its name."""
    config, subnets, hosts = f"{prefix}/config", f"{prefix}/subnets/", f"{prefix}/hosts/"
    return {
        # The daemon: follows the network config, holds a lease, says which host publishes its address.
        host: [Right("read", config), _below("readwrite", subnets), _below("readwrite", hosts)],
        # A person: `overlayd config set`, `overlayd lease reserve` and `release`, which look whether the host lives.
        admin(host): [Right("readwrite", config), _below("readwrite", subnets), _below("read", hosts)],
    }


def admin(host: str = HOST) -> str:
    """The user who writes the network config and reserves leases."""
    return f"{host}-admin"


def granted(role: Mapping[str, Any]) -> list[Right]:
    """The rights of a role out of what `etcdctl role get ROLE -w json` prints."""
    return [
        # A missing type is the first one: Go leaves zeros out of its JSON.
        Right(_KINDS[one.get("permType", 0)], _text(one.get("key", "")), _text(one.get("range_end", "")))
        for one in role.get("perm", [])
    ]


def _below(kind: str, prefix: str) -> Right:
    return Right(kind, prefix, _after(prefix))


def _after(prefix: str) -> str:
    """The first key behind all that begin with `prefix`, as etcdctl's --prefix finds it."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _text(key: str) -> str:
    return base64.b64decode(key).decode("utf-8", "surrogateescape")

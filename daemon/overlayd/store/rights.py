"""Which rights this host lacks in etcd: found out by reads and writes that change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overlayd.errors import StoreDenied, StoreFull
from overlayd.lib.quick_dataclass import dataclass
from overlayd.store.client import Store
from overlayd.store.pages import part_end
from overlayd.store.rpc import etcdrpc


@dataclass(frozen=True, kw_only=True)
class RightsTrial:
    """The rights that are `missing`, as `etcdctl role grant-permission` has them; `full` where etcd has no room."""

    missing: tuple[str, ...]
    full: bool


def try_rights(store: Store, *, read: Sequence[str] = (), write: Sequence[str] = ()) -> RightsTrial:
    """Try to read, and to read and write. Raises StoreError.

    A name that ends in `/` stands for all keys that begin with it.
    """
    missing, full = [f"read {name}" for name in read if not _reads(store, name)], False
    for name in write:
        try:
            may = _reads(store, name) and _writes(store, name)
        except StoreFull:
            # etcd says so before it looks at rights.
            full = may = True
        if not may:
            missing.append(f"{'--prefix ' if name.endswith('/') else ''}readwrite {name}")
    return RightsTrial(missing=tuple(missing), full=full)


def _reads(store: Store, name: str) -> bool:
    request = etcdrpc.RangeRequest(key=name.encode(), range_end=part_end(name), count_only=True)
    return _allows(store, f"read {name}", lambda c: c.kv.Range, request)


def _writes(store: Store, name: str) -> bool:
    return _allows(store, f"write {name}", lambda c: c.kv.Txn, write_without_effect(name))


def write_without_effect(key: str) -> Any:
    """A transaction that would write a key, under two conditions that cannot both hold.

    etcd checks the rights for both branches before it compares. So it refuses this to a user who may not write the key,
    and writes nothing for one who may.
    """
    never = [
        etcdrpc.Compare(result=result, target=etcdrpc.Compare.VERSION, key=key.encode(), version=0)
        for result in (etcdrpc.Compare.EQUAL, etcdrpc.Compare.GREATER)
    ]
    put = etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=key.encode(), value=b""))
    return etcdrpc.TxnRequest(compare=never, success=[put])


def _allows(store: Store, operation: str, method: Any, request: Any) -> bool:
    try:
        store.servers.call(operation, method, request, repeatable=True)
    except StoreDenied:
        return False
    return True

"""Whether etcd takes what this host would write there, and which rights are missing: tried, changing nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from overlayd.errors import StoreDenied, StoreFull
from overlayd.store.client import Store
from overlayd.store.pages import prefix_end
from overlayd.store.rpc import etcdrpc


@dataclass(frozen=True, kw_only=True)
class RightsTrial:
    """What was refused, in the words of `etcdctl role grant-permission`; `full` where etcd has no room for anything."""

    missing: tuple[str, ...]
    full: bool


def try_rights(store: Store, *, read: Sequence[str] = (), write: Sequence[str] = ()) -> RightsTrial:
    """Try to read, and to read and write. Raises StoreError.

    A name that ends in `/` stands for all below it.
    """
    missing, full = [f"read {name}" for name in read if not _reads(store, name)], False
    for name in write:
        try:
            may = _reads(store, name) and _writes(store, name)
        except StoreFull:
            # Said before rights are looked at.
            full = may = True
        if not may:
            missing.append(f"{'--prefix ' if name.endswith('/') else ''}readwrite {name}")
    return RightsTrial(missing=tuple(missing), full=full)


def _reads(store: Store, name: str) -> bool:
    request = etcdrpc.RangeRequest(key=name.encode(), range_end=_end(name), count_only=True)
    return _lets(store, f"read {name}", lambda c: c.kv.Range, request)


def _writes(store: Store, name: str) -> bool:
    # etcd looks at the rights of both branches before it looks at the comparisons, which contradict each other here.
    never = [
        etcdrpc.Compare(result=result, target=etcdrpc.Compare.VERSION, key=name.encode(), version=0)
        for result in (etcdrpc.Compare.EQUAL, etcdrpc.Compare.GREATER)
    ]
    put = etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=name.encode(), value=b""))
    request = etcdrpc.TxnRequest(compare=never, success=[put])
    return _lets(store, f"write {name}", lambda c: c.kv.Txn, request)


def _lets(store: Store, operation: str, method: Any, request: Any) -> bool:
    try:
        store.servers.call(operation, method, request, repeatable=True)
    except StoreDenied:
        return False
    return True


def _end(name: str) -> bytes:
    return prefix_end(name) if name.endswith("/") else b""

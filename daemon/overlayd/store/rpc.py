"""gRPC, and etcd's messages and services from python-etcd3, as much of them as is used here.

All of this room imports `grpc` and `etcdrpc` from here.
"""

from __future__ import annotations

from overlayd import lean

with lean.importing(
    # Its client, locks, members and watches, and the libraries behind these: 1.2 MB resident.
    bare=["etcd3"],
    # gRPC for asyncio: 0.9 MB.
    without={**lean.NO_TLS_IN_ASYNCIO, "grpc.aio": lean.module("grpc.aio")},
):
    import grpc

    from overlayd.store import protos

    protos.install()

    from etcd3 import etcdrpc

__all__ = ["etcdrpc", "grpc"]

"""gRPC, and python-etcd3's messages and services of etcd, without the parts that nobody here uses.

All modules of this folder import `grpc` and `etcdrpc` from here.
"""

from __future__ import annotations

from overlayd.lib import slim_imports

with slim_imports.importing(
    # Its client, locks, members and watches, and the libraries behind these: 1.2 MB resident.
    bare=["etcd3"],
    without={
        # gRPC for asyncio: 0.9 MB. Its compiled part asks for asyncio, and takes nothing from it: 1.5 MB, and 5 MB more
        # where that loads Python's TLS.
        "asyncio": slim_imports.module("asyncio"),
        "grpc.aio": slim_imports.module("grpc.aio"),
        # protobuf in Python, beside the compiled one that its wheels bring: 1.0 MB.
        "google.protobuf.internal.python_message": slim_imports.module("google.protobuf.internal.python_message"),
    },
):
    import grpc
    from grpc import _common as grpc_waiting

    from overlayd.store import protos

    protos.install()

    from etcd3 import etcdrpc

# gRPC's threads wait in steps of 0.1 s, so that a main thread in there hears of signals (grpc/_common.py, `wait`). Here
# signals have a thread of their own (lib/signals.py), and what they wait for wakes them. The watch alone woke up ten
# times a second: a tenth of a percent of a processor.
grpc_waiting.MAXIMUM_WAIT_TIMEOUT = 3600.0

__all__ = ["etcdrpc", "grpc"]

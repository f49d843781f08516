"""The one room that talks to etcd: keys and values, lists, watches, etcd leases, logins and rights."""

import os

# gRPC writes lines to standard error at every attempt; our errors say the same.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

"""The one room that talks to etcd."""

import os

# gRPC writes lines of its own to standard error at every attempt, in a form of its own; all they tell is in our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

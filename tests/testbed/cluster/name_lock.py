"""A lock for each cluster name: one process at a time makes or removes that cluster, from any checkout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from images.engine import lock
from pipeline import reporting
from tests.testbed.cluster.docker_engine import client


@contextmanager
def name_locked(name: str) -> Iterator[int]:
    """Hold the lock of a cluster's name on its dockerd; wait while another process has it, and report which.

    The lock is among the processes of one user; another user finds the names of containers taken. Raises OverlaydError
    where no dockerd answers, BuildError where no lock can be made. What is given is the lock's file (lock.held).
    """
    # Two dockerds of one machine may each have a cluster of that name.
    dockerd = hashlib.sha256(str(client().info()["ID"]).encode()).hexdigest()[:12]
    with lock.held(lock.folder() / f"cluster-{dockerd}-{name}.lock", f"cluster {name}", reporting.command()) as file:
        yield file

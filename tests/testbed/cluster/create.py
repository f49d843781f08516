"""Making and removing a cluster: all of it or nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from overlayd.errors import OverlaydError
from tests.testbed.cluster import docker_engine, virtual_machine
from tests.testbed.cluster.collect import collect
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.guard import guarded
from tests.testbed.cluster.name_lock import name_locked
from tests.testbed.cluster.parallel import drain
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.steps import STEPS, virtual_hosts

ROOT = Path(__file__).resolve().parents[3]
_DRAIN_S = 20.0


def create(cluster: Cluster, say: Callable[[str], None], *, retain: bool = False) -> ClusterSite:
    """Make a cluster, step by step. On failure or Ctrl-C nothing of it stays, but a folder that tells what happened.

    `retain` leaves a failed cluster standing, to be looked at.
    """
    site = ClusterSite(cluster=cluster)
    for role in ("host", "etcd", "probe"):
        site.image(role)
    if cluster.machines:
        virtual_hosts.require(cluster)
    try:
        with _sigterm_interrupts():
            for name, make in STEPS:
                began = time.monotonic()
                make(site)
                site.took_s[name] = time.monotonic() - began
                note = f", {site.notes[name]}" if name in site.notes else ""
                say(f"{name}: {site.took_s[name]:.1f} s{note}")
    except BaseException as error:
        if isinstance(error, OverlaydError):
            say(f"failed; its logs are in {collect(site, ROOT / 'build' / 'clusters')}")
        if retain:
            say(f"left standing as asked; remove it with: invoke cluster.down --name {cluster.name}")
        else:
            remove(cluster.name)
        raise
    return site


@contextmanager
def standing(cluster: Cluster, say: Callable[[str], None] = lambda _text: None) -> Iterator[ClusterSite]:
    """A cluster for the length of a block: made anew, and removed at its end, also where this process is killed."""
    with name_locked(cluster.name):
        # Also what is left of one that was killed, whose guard has the lock until it is done.
        remove(cluster.name)
    with guarded(cluster.name):
        try:
            yield create(cluster, say)
        finally:
            remove(cluster.name)


def remove(name: str) -> dict[str, int]:
    """Remove all of a cluster; how many containers, volumes and networks that were, and machines if there were any."""
    machines = virtual_machine.remove(name)
    count = docker_engine.remove_containers(name)
    # Work that was under way when a step failed ends now, with its containers gone, or has just made one more.
    drain(_DRAIN_S)
    machines += virtual_machine.remove(name)
    count += docker_engine.remove_containers(name)
    found = {"containers": count, **docker_engine.remove_rest(name)}
    return {"machines": machines, **found} if machines else found


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """A SIGTERM does what Ctrl-C does: CI systems send it, and `create` has to remove what it made."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

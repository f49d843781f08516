"""A host that loses power and returns: its kernel forgets everything, its disk does not."""

from __future__ import annotations

import shutil

from tests.testbed.netns.faults import foreign
from tests.testbed.netns.faults.echoes import Echoes
from tests.testbed.netns.lab import Host, Lab


def name(host: Host) -> str:
    """What the fault is called."""
    return f"{host.name} without power"


def off(host: Host) -> None:
    """Take the power away: the daemon is killed, and the namespaces go with all that is in them."""
    host.remove()
    for path in host.run_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def on(lab: Lab, host: Host) -> None:
    """Give the power back: the host has its addresses, what others put there, and a daemon that starts."""
    host.name_namespaces()
    lab.plug_in(host)
    foreign.plant(host)
    host.start(ready=False)


def is_ready(host: Host) -> bool:
    """Whether the host's daemon runs, is connected with etcd, and its data path is whole."""
    status = host.status()
    return host.runs() and status["state"] == "ready" and status["etcd_connected"] and not status["problems"]


def docker_starts(host: Host, echoes: Echoes | None = None) -> bool:
    """Start the container of a host whose daemon is ready, as docker does then. Whether it is there."""
    if not is_ready(host):
        return False
    host.start_container()
    if echoes is not None and host.name not in echoes.hosts:
        echoes.add(host)
    return True

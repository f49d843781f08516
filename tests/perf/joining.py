"""Brings peers up in a topology, each for as long as a block lasts; one that cannot be is a reason, not a failure."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from overlayd.errors import OverlaydError
from tests.perf.layout import subject
from tests.perf.peers import nebula, swarm, tinc, wireguard_go
from tests.perf.place import Pair
from tests.perf.topology import End, Topology
from tests.perf.topology_cluster import ClusterTopology
from tests.perf.wanted import Wanted
from tests.testbed.polling import eventually

TUNNELS: Mapping[str, ModuleType] = {one.NAME: one for one in (nebula, tinc, wireguard_go)}
PEERS = (swarm.NAME, *TUNNELS)
MTUS_BYTES = {swarm.NAME: swarm.MTU_BYTES, **{name: one.MTU_BYTES for name, one in TUNNELS.items()}}
_JOINED_S = 20.0


def join(
    topology: Topology, names: tuple[str, ...], stack: ExitStack, folder: Path, say: Callable[[str], None]
) -> tuple[dict[str, Pair], dict[str, str]]:
    """Bring the named peers up until `stack` ends: the way of each that is, and why the others are not."""
    ways: dict[str, Pair] = {}
    reasons: dict[str, str] = {}
    for name in names:
        with ExitStack() as own:
            try:
                ways[name] = _joined(topology, name, own, folder)
                stack.push(own.pop_all())
            except (OverlaydError, OSError, subprocess.SubprocessError) as error:
                reasons[name] = str(error)
                say(f"{name}: {reasons[name]}")
    return ways, reasons


def with_all_peers(document: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """The document of a place with a row for each wanted peer, also where what they were measured beside failed."""
    subjects = document["subjects"]
    for name in PEERS if wanted.peers else ():
        subjects.setdefault(name, subject("peer", reason="not measured: what it is measured beside failed"))
    return document


def _joined(topology: Topology, name: str, stack: ExitStack, folder: Path) -> Pair:
    if name == swarm.NAME:
        if not isinstance(topology, ClusterTopology):
            raise OverlaydError("hosts have no dockerd here")
        return stack.enter_context(swarm.joined(*topology.machines, topology.site.probe_image))
    module = TUNNELS[name]
    if missing := [program for program in module.PROGRAMS if shutil.which(program) is None]:
        raise OverlaydError(f"not installed: {', '.join(missing)}")
    ends = []
    for number, host in enumerate((topology.underlay.source, topology.underlay.target)):
        own = folder / f"{name}-{number}"
        own.mkdir()
        container = topology.peer_container(number, name, module.MTU_BYTES)
        ends.append(End(host=host, container=container, device=f"b-{name[:6]}{number}", folder=own))
    stack.enter_context(module.joined(ends))
    pair = Pair(ends[0].container, ends[1].container)
    reaches = partial(pair.source.reaches, pair.target.address, size_bytes=1000)
    eventually(f"{name} joins the containers", reaches, timeout_s=_JOINED_S)
    return pair

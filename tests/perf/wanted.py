"""What of the bench is to be measured, and which backends this machine can run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from overlayd.errors import CommandFailed, ConfigError
from tests.testbed.netns import namespaces, wireguard_devices

BACKENDS = ("vxlan", "host-gw", "udp", "ipip", "wireguard")
PLACES = ("cluster", "namespaces")
# `peers` and `daemon` are measured in the places that are named beside them, in both where none is. `many` is, in
# namespaces, the daemon among thousands of peers, and a hundred daemons.
PARTS = (*PLACES, "peers", "daemon", "many", "builds")
_IDLE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is measured in one place: these backends' ways, peers' ways, and the daemon's own cost, also among many.

    `backends` are set up one after the other, `measured` those of them whose ways are measured. `idle_s` is for how
    long the daemon is watched while nothing happens.
    """

    backends: tuple[str, ...]
    measured: tuple[str, ...]
    peers: bool = True
    daemon: bool = True
    many: bool = False
    idle_s: float = _IDLE_S

    @property
    def ways(self) -> bool:
        """Whether any way is measured."""
        return bool(self.measured) or self.peers


def parts(text: str) -> tuple[str, ...]:
    """The parts that `--only` names; all of them for an empty text. Raises ConfigError."""
    found = tuple(text.split(",")) if text else PARTS
    for name in found:
        if name not in PARTS:
            raise ConfigError(f"only is {text!r}", hint=f"allowed: {', '.join(PARTS)}, with commas between them")
    return found


def in_place(place: str, only: Sequence[str], backends: Sequence[str], idle_s: float = _IDLE_S) -> Wanted | None:
    """What is measured in a place; None where it is not wanted at all. Pure."""
    named = [one for one in PLACES if one in only]
    if place not in (named or PLACES):
        return None
    measured = tuple(backends) if place in only else ()
    wanted = Wanted(
        backends=measured or tuple(backends[:1]),
        measured=measured,
        peers="peers" in only,
        daemon="daemon" in only,
        many="many" in only and place == "namespaces",
        idle_s=idle_s,
    )
    return wanted if wanted.ways or wanted.daemon or wanted.many else None


def missing(backend: str) -> str | None:
    """Why this machine cannot run a backend; None where it can, or where that is found out by running it."""
    if backend == "wireguard" and not wireguard_devices.in_kernel() and shutil.which("wireguard-go") is None:
        return "the kernel has no WireGuard, and not installed: wireguard-go"
    if backend == "ipip" and not _kernel_makes("ipip", "local 127.0.0.1 remote 127.0.0.2"):
        return "the kernel has no ipip"
    return None


def _kernel_makes(kind: str, options: str) -> bool:
    name = namespaces.unique("kind")
    namespaces.make(name)
    try:
        namespaces.ip(name, f"link add trial0 type {kind} {options}")
    except CommandFailed:
        return False
    finally:
        namespaces.remove(name)
    return True

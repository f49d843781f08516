"""How packets travel between hosts. A backend turns leases into desired kernel state; few carry packets themselves."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from overlayd.backends.allowed_commands import Consent
from overlayd.backends.environment import Environment
from overlayd.backends.listening import Listening
from overlayd.errors import ConfigError
from overlayd.kernel.converge import ConvergeReport
from overlayd.leases.lease import Lease
from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.sanitize import sanitized

# Imported when asked for: a host uses one of them.
_MODULES = {
    "alloc": "alloc",
    "auto": "auto",
    "extension": "extension",
    "host-gw": "host_gw",
    "ipip": "ipip",
    "udp": "udp",
    "vxlan": "vxlan",
    "wireguard": "wireguard",
}
# What peers see in the lease, where that is not the name in the network config.
_PUBLISHED = {"auto": "vxlan"}


class Backend(Protocol):
    """One way for packets to travel. Made from the network config, opened with the host's lease, then applied to peers.

    Methods are called by one thread; `run` alone runs beside `apply`, in a thread of its own.
    """

    type: ClassVar[str]
    """The name in the network config."""
    keys: ClassVar[tuple[str, ...]]
    """The keys that it has there, beside Type."""
    one_route: ClassVar[bool]
    """Whether one route leads the whole network into the overlay, not only the subnets of peers."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """Check the backend's part of the network config. Raises NetworkConfigError; changes nothing."""
        ...

    @property
    def mtu_bytes(self) -> int:
        """The largest packet that containers may send: the underlay's MTU less the encapsulation."""
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """The interfaces on which packets from peers' containers arrive."""
        ...

    @property
    def listens(self) -> tuple[Listening, ...]:
        """What this host has to take in from peers' public addresses, besides the overlay's own packets."""
        ...

    def lease_data(self, version: int) -> Mapping[str, Any] | str | None:
        """What peers must know for IP version 4 or 6, as published in the lease. The same after a reboot."""
        ...

    def open(self, own: Lease) -> None:
        """Make ready for the host's own lease. Raises KernelRefused, UnsupportedError."""
        ...

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """Make the data path that of exactly these peers. Idempotent: a second call writes nothing."""
        ...

    def run(self, stop: threading.Event) -> None:
        """Carry packets until `stop` is set; returns at once where the kernel does that alone."""
        ...

    def close(self) -> None:
        """Let go of what only a living process can hold. What is in the kernel stays."""
        ...


def load(backend_type: str) -> type[Backend]:
    """The backend of that name. Raises ConfigError that names those there are."""
    module = _MODULES.get(backend_type)
    if module is None:
        raise ConfigError(f"Backend Type is {sanitized(backend_type)}", hint=f"known: {', '.join(names())}")
    found: type[Backend] = import_module(f"overlayd.backends.{module}").BACKEND
    return found


def retire_others(backend_type: str, run_dir: Path, consent: Consent) -> None:
    """Undo what another backend left that the kernel cannot show to be ours. Failures are logged."""
    if backend_type != "extension":
        from overlayd.backends.undo import retire  # noqa: PLC0415  (few hosts ever need it)

        retire(run_dir, consent)


def needs_restart(served: NetworkConfig, now: NetworkConfig) -> bool:
    """Whether `now` is not to be taken by a daemon that serves `served`: it has other commands to run."""
    here, there = ((config.backend_type, dict(config.backend_config)) for config in (served, now))
    return now.backend_type == "extension" and here != there


def names() -> tuple[str, ...]:
    """The backends there are."""
    return tuple(sorted(_MODULES))


def published_type(backend_type: str) -> str:
    """The type that a host with this backend publishes in its lease."""
    return _PUBLISHED.get(backend_type, backend_type)

"""How packets travel between hosts. A backend turns leases into desired kernel state; few carry packets themselves.

A backend is a module of this package that has a `BACKEND`: a class with the methods of `backend.Backend`, and with
`facts`, which say everything that others have to know of it. The module is found by its name, `host_gw` for `host-gw`,
and is imported when it is asked for: a host uses one of them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from overlayd.errors import ConfigError
from overlayd.lib.sanitize import sanitized

if TYPE_CHECKING:
    from pathlib import Path

    from overlayd.backends.allowed_commands import AllowedCommands
    from overlayd.backends.backend import Backend
    from overlayd.backends.facts import BackendFacts
    from overlayd.leases.network_config import NetworkConfig

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def load(backend_type: str) -> type[Backend]:
    """The backend of that name. Raises ConfigError that names those there are."""
    found = _find(backend_type)
    if found is None:
        raise ConfigError(f"Backend Type is {sanitized(backend_type)}", hint=f"known: {', '.join(names())}")
    return found


def names() -> tuple[str, ...]:
    """The backends there are, sorted. Imports all modules of this package."""
    import pkgutil  # noqa: PLC0415  (for messages and manual pages only)

    found = (module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if _find(name) is not None))


def facts_of(backend_type: str) -> BackendFacts | None:
    """What the backend of that name says of itself; None where there is no such backend, as a lease may have any."""
    found = _find(backend_type)
    return None if found is None else found.facts


def device_kinds() -> tuple[str, ...]:
    """The kinds of devices that some backend needs the kernel to make."""
    kinds = (load(name).facts.device_kind for name in names())
    return tuple(sorted({kind for kind in kinds if kind is not None}))


def retire_others(backend_type: str, run_dir: Path, allowed_commands: AllowedCommands) -> None:
    """Undo what another backend left that the kernel cannot show to be ours. Failures are logged."""
    if not load(backend_type).facts.runs_commands:
        from overlayd.backends.undo import retire  # noqa: PLC0415  (few hosts ever need it)

        retire(run_dir, allowed_commands)


def needs_restart(served: NetworkConfig, now: NetworkConfig) -> bool:
    """Whether a daemon that serves `served` must be restarted to serve `now`, as that has other commands to run."""
    here, there = ((config.backend_type, dict(config.backend_config)) for config in (served, now))
    facts = facts_of(now.backend_type)
    return facts is not None and facts.runs_commands and here != there


def published_type(backend_type: str) -> str:
    """The type that a host with this backend publishes in its lease."""
    facts = facts_of(backend_type)
    return backend_type if facts is None else facts.published_as


# Leases may name any number of backends that do not exist.
@lru_cache(maxsize=64)
def _find(backend_type: str) -> type[Backend] | None:
    # The name may come from etcd: only a module of this package is ever imported by it.
    if _NAME.fullmatch(backend_type) is None:
        return None
    stem = backend_type.replace("-", "_")
    try:
        module = import_module(f"{__name__}.{stem}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{stem}":
            raise
        return None
    found: type[Backend] | None = getattr(module, "BACKEND", None)
    return found

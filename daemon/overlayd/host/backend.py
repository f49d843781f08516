"""Makes the backend that a network config asks for, and checks it against what this host allows and needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from overlayd import backends
from overlayd.backends import options
from overlayd.backends.allowed_commands import AllowedCommands
from overlayd.backends.backend import Backend
from overlayd.backends.environment import Environment
from overlayd.errors import ConfigError, NetworkConfigError
from overlayd.host import other_networks
from overlayd.leases.conflicts import SHOWN_AT_MOST, CurrentNeeds
from overlayd.leases.network_config import KEYS, NetworkConfig
from overlayd.lib.sanitize import sanitized
from overlayd.settings import Settings
from overlayd.underlay import host_needs
from overlayd.underlay.choose import Underlay


def unknown_keys(config: NetworkConfig) -> list[tuple[str, str]]:
    """The unknown keys of a network config: for each a sentence, and the names of the known keys.

    Hosts ignore such keys, as flannel does. Raises ConfigError where there is no such backend.
    """
    facts = backends.load(config.backend_type).facts
    found = [(f"{sanitized(key)} is not a key of the network config", ", ".join(KEYS)) for key in config.unknown]
    known = ", ".join(facts.key_names) or "no keys but Type"
    found += ((text, known) for text in options.unknown_keys(facts, config.backend_config))
    more = len(found) - SHOWN_AT_MOST
    return (
        found
        if more <= 0
        else [*found[:SHOWN_AT_MOST], (f"{more} more keys are not keys of the network config", known)]
    )


def load_backend(
    config: NetworkConfig,
    underlay: Underlay,
    *,
    blackhole: bool = False,
    run_dir: Path = Path("/run/overlayd"),
    state_dir: Path | None = None,
    here: CurrentNeeds | None = None,
    allowed_commands: AllowedCommands | None = None,
) -> Backend:
    """The backend that a network config asks for. Raises NetworkConfigError: whoever wrote the config can mend it.

    `here` is what this host needs, where the config is for this host. Without `allowed_commands`, it
    is not checked whether this host may run the config's commands.
    """
    environment = Environment(
        network=config,
        underlay=underlay,
        blackhole=blackhole,
        run_dir=run_dir,
        state_dir=state_dir,
        here=here or CurrentNeeds(),
        allowed_commands=allowed_commands,
    )
    try:
        backend = backends.load(config.backend_type).from_config(config.backend_config, environment)
    except ConfigError as error:
        raise NetworkConfigError(error.message, hint=error.hint) from error
    if here is not None:
        host_needs.require_fit(config, here, one_route=backend.facts.one_route)
    return backend


def backend_here(settings: Settings, config: NetworkConfig, underlay: Underlay, here: CurrentNeeds) -> Backend:
    """The backend for this host, with its settings. Raises as `load_backend` does; changes nothing, runs nothing."""
    backend = load_backend(
        config,
        underlay,
        here=here,
        blackhole=settings.ip_blackhole_route,
        run_dir=settings.run_dir,
        state_dir=settings.state_dir,
        allowed_commands=AllowedCommands(folder=settings.extension_commands),
    )
    other_networks.require_apart(
        replace(other_networks.of_settings(settings), networks=config.networks, listens=backend.listens)
    )
    return backend

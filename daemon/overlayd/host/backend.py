"""The backend that a network config asks for: on any host, or on this one, with what it allows and needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from overlayd import backends
from overlayd.backends.allowed_commands import Consent
from overlayd.backends.environment import Environment
from overlayd.backends.options import unknown
from overlayd.errors import ConfigError, NetworkConfigError
from overlayd.host import other_networks
from overlayd.leases.conflicts import SHOWN_AT_MOST, CurrentNeeds
from overlayd.leases.network_config import KEYS, NetworkConfig
from overlayd.lib.sanitize import sanitized
from overlayd.settings import Settings
from overlayd.underlay import host_needs
from overlayd.underlay.choose import Underlay


def unknown_keys(config: NetworkConfig) -> list[tuple[str, str]]:
    """The keys of a network config that no host reads: a sentence for each, and which keys there are.

    A config is read without them, as flannel does. Raises ConfigError where there is no such backend.
    """
    keys = backends.load(config.backend_type).keys
    found = [(f"{sanitized(key)} is not a key of the network config", ", ".join(KEYS)) for key in config.unknown]
    known = ", ".join(keys) or "no keys but Type"
    found += ((text, known) for text in unknown(config.backend_type, config.backend_config, keys))
    more = len(found) - SHOWN_AT_MOST
    return found if more <= 0 else [*found[:SHOWN_AT_MOST], (f"{more} more keys of the network config are none", known)]


def load_backend(
    config: NetworkConfig,
    underlay: Underlay,
    *,
    blackhole: bool = False,
    run_dir: Path = Path("/run/overlayd"),
    state_dir: Path | None = None,
    here: CurrentNeeds | None = None,
    consent: Consent | None = None,
) -> backends.Backend:
    """The backend that a network config asks for. Raises NetworkConfigError: whoever wrote the config can mend it.

    `here` is what this host needs, where the config is for this host. Without `consent`, it is not checked whether
    this host allows the config's commands.
    """
    environment = Environment(
        network=config,
        underlay=underlay,
        blackhole=blackhole,
        run_dir=run_dir,
        state_dir=state_dir,
        here=here or CurrentNeeds(),
        consent=consent,
    )
    try:
        backend = backends.load(config.backend_type).from_config(config.backend_config, environment)
    except ConfigError as error:
        raise NetworkConfigError(error.message, hint=error.hint) from error
    if here is not None:
        host_needs.require_fit(config, here, one_route=backend.one_route)
    return backend


def backend_here(settings: Settings, config: NetworkConfig, underlay: Underlay, here: CurrentNeeds) -> backends.Backend:
    """The backend for this host, with its settings. Raises as `load_backend` does; changes nothing, runs nothing."""
    backend = load_backend(
        config,
        underlay,
        here=here,
        blackhole=settings.ip_blackhole_route,
        run_dir=settings.run_dir,
        state_dir=settings.state_dir,
        consent=Consent(folder=settings.extension_commands),
    )
    other_networks.require_apart(
        replace(other_networks.of_settings(settings), networks=config.networks, listens=backend.listens)
    )
    return backend

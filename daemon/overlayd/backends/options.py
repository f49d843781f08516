"""A backend's part of the network config, read key by key. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overlayd.backends.facts import BackendFacts, Key
from overlayd.errors import NetworkConfigError
from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.sanitize import sanitized

# The kernel takes a backend's port on every host of the network. Lower ones are those of services, as DNS or DHCP (RFC
# 6335, system ports).
FIRST_PORT, LAST_PORT = 1024, 65535

# Of those backends that can be told that the way to peers takes less than this host's interface. 0 counts as missing.
MTU = Key(
    name="MTU",
    help="The underlay's MTU, to be set where the path to peers takes less than the interface.",
    default=None,
    default_text="the interface's",
)


class Options:
    """The keys of one backend, in any case, as flannel's Go reads them. Keys that it does not have are left out."""

    def __init__(self, facts: BackendFacts, config: Mapping[str, Any]) -> None:
        """The values in `config` of the keys in `facts`."""
        self._facts = facts
        names = {name.lower(): name for name in facts.key_names}
        self._values = {names[key.lower()]: value for key, value in config.items() if key.lower() in names}

    def number(self, name: str) -> int:
        """A whole number within the key's limits; its default, or 0, where the key is missing.

        Raises NetworkConfigError.
        """
        key = self._facts.key(name)
        low, high = key.lowest or 0, key.highest if key.highest is not None else 65535
        value = self._values.get(name, key.default or 0)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(name, value, f"a number from {low} to {high}")
        return value

    def port(self, name: str) -> int:
        """A port within the key's limits; 0 stands for the default. Raises NetworkConfigError."""
        key = self._facts.key(name)
        if self._values.get(name) == 0 and isinstance(key.default, int):
            return key.default
        return self.number(name)

    def flag(self, name: str) -> bool:
        """True or false; the default where the key is missing. Raises NetworkConfigError."""
        value = self._values.get(name, self._facts.key(name).default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str) -> str:
        """A string; empty where the key is missing. Raises NetworkConfigError."""
        value = self._values.get(name, "")
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def word(self, name: str) -> str:
        """One of the key's words; the default where the key is missing or empty. Raises NetworkConfigError."""
        key = self._facts.key(name)
        value = self._values.get(name) or key.default
        if value not in key.words:
            raise self._wrong(name, value, ", ".join(key.words))
        return str(value)

    def secret(self, name: str) -> str | None:
        """A text that no message shows; None where it is missing or empty. Raises NetworkConfigError."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise NetworkConfigError(
                f"{name} of backend {self._facts.name} is not a text", hint="its value is not shown"
            )
        return value or None

    def _wrong(self, name: str, value: object, allowed: str) -> NetworkConfigError:
        return NetworkConfigError(f"{name} of backend {self._facts.name} is {sanitized(value)}", hint=allowed)


def unknown_keys(facts: BackendFacts, config: Mapping[str, Any]) -> list[str]:
    """A sentence for each key in `config` that the backend does not have."""
    names = {name.lower() for name in facts.key_names}
    return [f"backend {facts.name} has no key {sanitized(key)}" for key in config if key.lower() not in names]


def largest_packet(facts: BackendFacts, underlay_mtu_bytes: int, overhead_bytes: int, *, ipv6: bool = False) -> int:
    """What is left of the underlay's MTU. Raises NetworkConfigError below the 68 of RFC 791, or the 1280 of RFC 8200.

    Linux takes IPv6 away from an interface with less.
    """
    left, least = underlay_mtu_bytes - overhead_bytes, 1280 if ipv6 else 68
    if left < least:
        raise NetworkConfigError(
            f"backend {facts.name} needs {overhead_bytes} bytes of every packet, and the underlay's MTU is "
            f"{underlay_mtu_bytes}: less than {least} are left",
            hint="raise the MTU of the underlay interface",
        )
    return left


def require_families(facts: BackendFacts, network: NetworkConfig) -> None:
    """Refuse a network with IPv6 where the backend carries none. Raises NetworkConfigError."""
    if network.v6 is not None and not facts.ipv6:
        raise NetworkConfigError(
            f"backend {facts.name} carries IPv4 only",
            hint="set EnableIPv6 to false, or use backend vxlan, host-gw or wireguard",
        )

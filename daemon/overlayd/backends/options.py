"""A backend's part of the network config, read key by key. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overlayd.errors import NetworkConfigError
from overlayd.lib.sanitize import sanitized

# Below are the ports of services (RFC 6335, system ports).
FIRST_PORT = 1024


class Options:
    """The keys of one backend, in any case, as flannel's Go reads them. Others say nothing (see `unknown`)."""

    def __init__(self, backend: str, config: Mapping[str, Any], known: tuple[str, ...]) -> None:
        """Those of the keys that are in `known`."""
        self._backend = backend
        names = {name.lower(): name for name in known}
        self._values = {names[key.lower()]: value for key, value in config.items() if key.lower() in names}

    def number(self, key: str, default: int, *, low: int, high: int) -> int:
        """A whole number from `low` to `high`. Raises NetworkConfigError."""
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise NetworkConfigError(
                f"{key} of backend {self._backend} is {sanitized(value)}", hint=f"a number from {low} to {high}"
            )
        return value

    def port(self, key: str, default: int) -> int:
        """A UDP port of 1024 or more; 0 stands for the default. Raises NetworkConfigError.

        The kernel takes it on every host of the network: below, it would be that of a service, as DNS or DHCP.
        """
        value = self.number(key, default, low=0, high=65535)
        if 0 < value < FIRST_PORT:
            raise NetworkConfigError(
                f"{key} of backend {self._backend} is {value}", hint=f"a port from {FIRST_PORT} to 65535"
            )
        return value or default

    def flag(self, key: str) -> bool:
        """True or false; false where the key is missing. Raises NetworkConfigError."""
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            raise NetworkConfigError(f"{key} of backend {self._backend} is {sanitized(value)}", hint="true or false")
        return value

    def text(self, key: str) -> str:
        """A string; empty where the key is missing. Raises NetworkConfigError."""
        value = self._values.get(key, "")
        if not isinstance(value, str):
            raise NetworkConfigError(f"{key} of backend {self._backend} is {sanitized(value)}", hint="a string")
        return value

    def word(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of the words in `allowed`; the first where the key is missing. Raises NetworkConfigError."""
        value = self._values.get(key) or allowed[0]
        if value not in allowed:
            raise NetworkConfigError(f"{key} of backend {self._backend} is {sanitized(value)}", hint=", ".join(allowed))
        return str(value)

    def secret(self, key: str) -> str | None:
        """A text that no message shows; None where it is missing or empty. Raises NetworkConfigError."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise NetworkConfigError(f"{key} of backend {self._backend} is not a text", hint="its value is not shown")
        return value or None


def unknown(backend: str, config: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    """A sentence for each key that the backend has not."""
    names = {name.lower() for name in known}
    return [f"backend {backend} has no key {sanitized(key)}" for key in config if key.lower() not in names]


def largest_packet(backend: str, underlay_mtu_bytes: int, overhead_bytes: int, *, ipv6: bool = False) -> int:
    """What is left of the underlay's MTU. Raises NetworkConfigError below the 68 of RFC 791, or the 1280 of RFC 8200.

    Linux takes IPv6 away from an interface with less.
    """
    left, least = underlay_mtu_bytes - overhead_bytes, 1280 if ipv6 else 68
    if left < least:
        raise NetworkConfigError(
            f"backend {backend} needs {overhead_bytes} bytes of every packet, and the underlay's MTU is "
            f"{underlay_mtu_bytes}: less than {least} are left",
            hint="raise the MTU of the underlay interface",
        )
    return left

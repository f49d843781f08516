"""What a backend says of itself, for everybody who has to know it: doctor, ping, check, the manual pages. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of the backend's part of the network config.

    `help` says what it means, without limits and default, which the manual page adds. `default` counts where the key is
    missing; None: there is none, and `default_text` says in words what counts then. `lowest` and `highest` are the
    limits of a number, `words` all that a text may be. A `secret` value is never shown.
    """

    name: str
    help: str
    default: bool | int | str | None
    default_text: str = ""
    lowest: int | None = None
    highest: int | None = None
    words: tuple[str, ...] = ()
    secret: bool = False


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """How packets travel between hosts: over UDP with a port, or as an IP protocol by its number without one.

    `protocol` is `udp` or the number (IANA, protocol-numbers). `port_key` is the key of the network config with the
    port; its default is the backend's.
    """

    protocol: str
    port_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class BackendFacts:
    """Everything about a backend that does not depend on the host or the network config. No field has a default."""

    name: str
    """The Type in the network config."""
    published_as: str
    """The BackendType in the leases of its hosts."""
    summary: str
    """What it is and what it needs, in sentences for the manual page."""
    keys: tuple[Key, ...]
    """The keys that it has in the network config, beside Type."""
    ipv6: bool
    """Whether it carries IPv6."""
    overhead_bytes: Mapping[int, int] | None
    """What it adds to a container's packet, by the IP version of the underlay; None: nobody knows."""
    carrier: Carrier | None
    """What its packets travel in; None: they travel as they are, or nobody knows."""
    device_kind: str | None
    """The kind of device that the kernel must be able to make (netlink's, or `tun`); None: it makes no device."""
    host_answers: bool
    """Whether a host itself answers at the first address of its subnet, whether docker runs or not."""
    one_route: bool
    """Whether one route leads the whole network into the overlay, not only the subnets of peers."""
    runs_commands: bool
    """Whether it runs commands of the network config."""
    notified: bool
    """Whether rtnetlink tells of each change of what it made, kernel settings aside: it is read seldom then."""

    def key(self, name: str) -> Key:
        """The key of that name. Raises KeyError."""
        for key in self.keys:
            if key.name == name:
                return key
        raise KeyError(name)

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names of the keys."""
        return tuple(key.name for key in self.keys)

    @property
    def default_port(self) -> int | None:
        """The port of the carrier where the network config names none; None: the carrier has no port."""
        if self.carrier is None or self.carrier.port_key is None:
            return None
        default = self.key(self.carrier.port_key).default
        return default if isinstance(default, int) else None

    def port(self, config: Mapping[str, object]) -> int | None:
        """The port of the carrier under the backend's part of a network config, as far as that can be read."""
        if self.carrier is None or self.carrier.port_key is None:
            return None
        port_key = self.carrier.port_key.lower()
        for key, value in config.items():
            if key.lower() == port_key and isinstance(value, int) and value:
                return value
        return self.default_port

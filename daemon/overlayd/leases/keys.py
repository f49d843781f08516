"""The keys of a network in etcd. Pure.

    <prefix>/config                             the network config (network_config.py)
    <prefix>/subnets/10.5.52.0-24               a lease (lease.py)
    <prefix>/subnets/10.5.52.0-24&fc00::-64     a lease of both families
    <prefix>/subnets/0.0.0.0-0&fc00::-64        a lease of IPv6 alone
    <prefix>/hosts/198.18.0.1                   the daemon that publishes an address (presence.py)

The first two are flannel's; flannel does not read the third. An etcd user of overlayd needs rights on these and no
others.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain, sanitized
from overlayd.store.bounded_keys import Bounds

# Below the prefix. A name that ends in a slash stands for all keys that begin with it.
CONFIG, SUBNETS, HOSTS = "config", "subnets/", "hosts/"
# Names and values that are longer are not read. The longest name of two subnets has 63 characters; a lease has some
# 200 bytes, but the extension backend publishes what a command printed.
LEASE_NAME_LENGTH = 128
LEASE_BYTES = 64 * 1024
CONFIG_BYTES = 256 * 1024
# What of a network is kept in memory, whatever else is below the prefix.
BOUNDS = Bounds(name_length=len(SUBNETS) + LEASE_NAME_LENGTH, value_bytes=LEASE_BYTES, always={CONFIG: CONFIG_BYTES})
_NO_IPV4 = "0.0.0.0"


class MalformedLease(ValueError):
    """A key or value that is not a lease. The text says what is wrong with it."""


@dataclass(frozen=True)
class Keys:
    """The keys of the network that is kept below `prefix`, which ends without a slash."""

    prefix: str

    @property
    def config(self) -> str:
        """The key of the network config."""
        return f"{self.prefix}/{CONFIG}"

    @property
    def subnets(self) -> str:
        """What the keys of all leases begin with."""
        return f"{self.prefix}/{SUBNETS}"

    @property
    def hosts(self) -> str:
        """What the keys of all presences begin with."""
        return f"{self.prefix}/{HOSTS}"

    def lease(self, name: str) -> str:
        """The key of the lease with this name."""
        return f"{self.subnets}{name}"

    def host(self, address: IPAddress) -> str:
        """The key of the presence of the host that publishes an address."""
        return f"{self.hosts}{address}"

    def lease_name(self, key: str) -> str:
        """The name of a lease, from its key."""
        return key.removeprefix(self.subnets)


def lease_name(subnets: Subnets) -> str:
    """The name of the lease of these subnets, as flannel writes it: `10.5.52.0-24&fc00::-64`."""
    v4, v6 = subnets.v4, subnets.v6
    name = f"{v4.network_address}-{v4.prefixlen}" if v4 else f"{_NO_IPV4}-0"
    return f"{name}&{v6.network_address}-{v6.prefixlen}" if v6 else name


def parse_lease_name(name: str) -> Subnets:
    """The subnets that a lease's name says. Raises MalformedLease.

    The IPv6 part is also read with `-` for `:`, as some tools write it.
    """
    if len(name) > LEASE_NAME_LENGTH:
        raise MalformedLease(f"key {sanitized(name)} has {len(name)} characters, at most {LEASE_NAME_LENGTH} are read")
    first, _, second = name.partition("&")
    try:
        v6 = None
        if "%" in second:
            raise ValueError("a zone (RFC 4007) means something on one host only")
        if second:
            address6, _, length6 = second.rpartition("-")
            v6 = IPv6Network(f"{address6.replace('-', ':')}/{_length(length6)}")
        address, _, length = first.partition("-")
        v4 = IPv4Network(f"{address}/{_length(length)}")
    except ValueError as error:
        raise MalformedLease(
            f"key {sanitized(name)} is not ADDRESS-LENGTH of an aligned subnet: {plain(str(error))}"
        ) from error
    # How flannel writes a lease without IPv4.
    return Subnets(v4=None if v6 and v4.prefixlen == 0 else v4, v6=v6)


def _length(text: str) -> int:
    # int() would also take ` 24`, `+24` and `2_4`.
    if not text.isdecimal() or not text.isascii():
        raise ValueError(f"{sanitized(text)} is no prefix length")
    return int(text)

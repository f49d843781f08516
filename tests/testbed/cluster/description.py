"""What a cluster is: hosts, etcd and links, as one value. Pure: no I/O.

The same value serves the tests, `invoke cluster.up` and compose. It travels in a label of every container of the
cluster, so a running cluster describes itself.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from overlayd.errors import ConfigError
from overlayd.leases.network_config import parse_network_config

CLUSTER_LABEL = "org.overlayd.cluster"
ROLE_LABEL = "org.overlayd.cluster.role"
DESCRIPTION_LABEL = "org.overlayd.cluster.description"

NETWORK = IPv4Network("10.42.0.0/16")
UNDERLAY = IPv4Network("198.18.0.0/24")
ETCD_PORT = 2379
_ETCD_NUMBER = 2
_FIRST_HOST_NUMBER = 11
SMALLEST_UNDERLAY = 28
_BACKENDS = 'allowed: a name, as vxlan or host-gw; or an object, as {"Type":"vxlan","VNI":7}'
# What Docker takes in the names of containers, volumes and networks, which begin with `overlayd-` here.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One etcd and some hosts on one underlay subnet, and the network config that they share.

    `backend` is the backend's object in the network config, as JSON; `base` names the base image that the images were
    built on. Two clusters may run side by side when their names and their underlays differ. etcd has TLS and asks for a
    login; with `open_etcd` it has neither, as at who runs an older one. With `machines` the hosts are virtual machines;
    `kernel` is the version of Debian's kernel that these boot (images.machine.kernels.SUITES), without it their own;
    `kernel_options` are more words for that kernel; `disk` is a disk below the build folder in place of the base's own.
    """

    name: str = "default"
    base: str
    hosts: int = 3
    backend: str = '{"Type":"vxlan"}'
    network: IPv4Network = NETWORK
    underlay: IPv4Network = UNDERLAY
    prefix: str = "/coreos.com/network"
    open_etcd: bool = False
    machines: bool = False
    kernel: str = ""
    kernel_options: str = ""
    disk: str = ""

    def __post_init__(self) -> None:
        """Refuse what could not work. Raises ConfigError."""
        checked_name(self.name)
        if self.kernel and not self.machines:
            raise ConfigError(f"kernel is {self.kernel}, and the hosts are containers", hint="with it give --machines")
        room = self.underlay.num_addresses - _FIRST_HOST_NUMBER - 1
        if room < 1:
            raise ConfigError(
                f"underlay is {self.underlay}, which is too small for a host",
                hint=f"allowed: a subnet of length {SMALLEST_UNDERLAY} or shorter",
            )
        if not 1 <= self.hosts <= room:
            raise ConfigError(
                f"hosts is {self.hosts}",
                hint=f"allowed: 1 to {room} on the underlay {self.underlay}; a larger one: --underlay",
            )
        if self.underlay.overlaps(self.network):
            raise ConfigError(
                f"underlay is {self.underlay}, which overlaps the overlay's network {self.network}",
                hint="allowed: a subnet apart from it, as 198.18.7.0/24",
            )
        # The daemon's own reader: a config that it would refuse does not get as far as a container.
        parse_network_config(self.network_config)

    @property
    def network_config(self) -> str:
        """The JSON that goes into etcd."""
        config = {"Network": str(self.network), "Backend": json.loads(self.backend)}
        return json.dumps(config, separators=(",", ":"))

    @property
    def backend_type(self) -> str:
        """The backend's name."""
        return str(json.loads(self.backend)["Type"])

    @property
    def host_names(self) -> tuple[str, ...]:
        """The hosts' names inside the cluster, in the order of their addresses."""
        return tuple(f"host{number}" for number in range(1, self.hosts + 1))

    @property
    def etcd_address(self) -> IPv4Address:
        """etcd's address on the underlay."""
        return self.underlay[_ETCD_NUMBER]

    @property
    def etcd_endpoint(self) -> str:
        """Where the hosts find etcd."""
        return f"{'http' if self.open_etcd else 'https'}://{self.etcd_address}:{ETCD_PORT}"

    @property
    def docker_network(self) -> str:
        """The name of the Docker network that is the underlay."""
        return f"overlayd-{self.name}"

    def address(self, host: str) -> IPv4Address:
        """A host's address on the underlay; the name ends in the host's number, counted from 1."""
        return self.underlay[_FIRST_HOST_NUMBER - 1 + int(host.removeprefix("host"))]

    def container(self, role: str) -> str:
        """The name of the container that plays `etcd` or a host."""
        return f"overlayd-{self.name}-{role}"

    def volume(self, what: str) -> str:
        """The name of a volume that is no single container's: the `secrets` of etcd's set-up, one for each user."""
        return f"overlayd-{self.name}-{what}"

    def image(self, what: str) -> str:
        """The image of a `host`, of `etcd`, or of the `probe`."""
        return f"overlayd/{what}:{self.base}"

    def labels(self, role: str) -> dict[str, str]:
        """The labels of everything that is made for the cluster."""
        return {CLUSTER_LABEL: self.name, ROLE_LABEL: role, DESCRIPTION_LABEL: self.to_label()}

    def to_label(self) -> str:
        """The description as text; `from_label` reads it back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(fields, default=str, sort_keys=True)


def from_label(text: str) -> Cluster:
    """The description that a label holds. Raises ConfigError when another version wrote it otherwise."""
    try:
        found = json.loads(text)
        found["network"] = IPv4Network(found["network"])
        found["underlay"] = IPv4Network(found["underlay"])
        return Cluster(**found)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"label {DESCRIPTION_LABEL} cannot be read: {error}", hint="invoke cluster.down") from error


def checked_name(name: str) -> str:
    """The name of a cluster, as it was given. Raises ConfigError for one that Docker would refuse."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name is {name!r}",
            hint="allowed: up to 40 letters, digits, '_', '.' and '-', the first a letter or a digit",
        )
    return name


def backend_json(name: str) -> str:
    """The backend's object for the network config, for a bare name or an object written out. Raises ConfigError."""
    if not name.startswith("{"):
        return json.dumps({"Type": name}, separators=(",", ":"))
    try:
        found = json.loads(name)
    except ValueError as error:
        raise ConfigError(f"backend is {name!r}, which is not JSON: {error}", hint=_BACKENDS) from error
    if not isinstance(found.get("Type"), str):
        raise ConfigError(f"backend is {name!r}, which names no Type", hint=_BACKENDS)
    return name

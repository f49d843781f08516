"""From the description to what Docker is asked for, container by container. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from tests.cluster.description import Cluster

# systemd as PID 1 wants these empty at every start.
_TMPFS = {"/run": "", "/run/lock": "", "/tmp": ""}
# overlay2 does not stack on overlay2, so the inner docker keeps its layers on volumes.
_VOLUMES = {"docker": "/var/lib/docker", "containerd": "/var/lib/containerd"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One container to be made. `host_config` is HostConfig as the Docker Engine API has it."""

    name: str
    image: str
    role: str
    network: str
    address: IPv4Address
    labels: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    host_config: dict[str, Any] = field(default_factory=dict)


def etcd(cluster: Cluster, image: str) -> Plan:
    """The container that runs etcd, from the image with that ID."""
    return Plan(
        name=cluster.container("etcd"),
        image=image,
        role="etcd",
        network=cluster.docker_network,
        address=cluster.etcd_address,
        labels=cluster.labels("etcd"),
        environment={"ETCD_ADVERTISE_CLIENT_URLS": cluster.etcd_endpoint},
        host_config={"NetworkMode": cluster.docker_network},
    )


def host(cluster: Cluster, name: str, image: str, *, privileged: bool, settings: dict[str, str] | None = None) -> Plan:
    """The container that is a host. `settings` are more OVERLAYD_ variables for its daemon, `image` is an ID."""
    volumes = {f"{cluster.container(name)}-{what}": path for what, path in _VOLUMES.items()}
    environment = {
        "OVERLAYD_ETCD_ENDPOINTS": cluster.etcd_endpoint,
        "OVERLAYD_ETCD_PREFIX": cluster.prefix,
        "OVERLAYD_PUBLIC_IP": str(cluster.address(name)),
    }
    return Plan(
        name=cluster.container(name),
        image=image,
        role=name,
        network=cluster.docker_network,
        address=cluster.address(name),
        labels=cluster.labels(name),
        environment=environment | (settings or {}),
        volumes=volumes,
        host_config=host_config(cluster.docker_network, volumes, privileged=privileged),
    )


def host_config(network: str, volumes: dict[str, str], *, privileged: bool) -> dict[str, Any]:
    """HostConfig for a container with systemd as PID 1, its own dockerd, and containers inside.

    Without `privileged` it grants what that does, except CAP_SYS_RESOURCE, which some machines do not have to give.
    """
    config: dict[str, Any] = {
        "NetworkMode": network,
        "CgroupnsMode": "host",
        "Tmpfs": _TMPFS,
        "Binds": ["/sys/fs/cgroup:/sys/fs/cgroup:rw", *(f"{name}:{path}" for name, path in volumes.items())],
    }
    if privileged:
        return config | {"Privileged": True}
    return config | {
        "CapAdd": ["ALL"],
        "CapDrop": ["SYS_RESOURCE"],
        "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
        # What the docker command sends for `--security-opt systempaths=unconfined`; the SDK has no word for it.
        "MaskedPaths": [],
        "ReadonlyPaths": [],
        "Devices": [{"PathOnHost": "/dev/net/tun", "PathInContainer": "/dev/net/tun", "CgroupPermissions": "rwm"}],
        "DeviceCgroupRules": ["a *:* rwm"],
    }

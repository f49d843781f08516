"""What Docker is asked for to make a cluster, container by container, from its description. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tests.testbed.cluster.description import Cluster

CGROUPS = Path("/sys/fs/cgroup")
# systemd as PID 1 wants these empty at every start.
_TMPFS = {"/run": "", "/run/lock": "", "/tmp": ""}
_SECRETS = "/secrets"
_ROOT = f"{_SECRETS}/root"
# What etcd-setup names them; it runs in the image, and is no module of ours here.
HOST_USER, ADMIN_USER, PASSWORD_FILE = "overlayd", "overlayd-admin", "etcd-password"
# The folder on a host with the CA's certificate and the password for etcd; etcd-setup names it.
_LOGIN = "/etc/overlayd"
# overlay2 does not stack on overlay2, so the inner docker keeps its layers on volumes.
_VOLUMES = {"docker": "/var/lib/docker", "containerd": "/var/lib/containerd"}


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """One container to be made. `host_config` is HostConfig as the Docker Engine API has it.

    `volumes` are its own by their names. Without a command it is the image's, as is the user.
    """

    name: str
    image: str
    role: str
    network: str
    address: IPv4Address | None
    labels: dict[str, str]
    command: tuple[str, ...] = ()
    user: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    host_config: dict[str, Any] = field(default_factory=dict)


def secrets(cluster: Cluster) -> dict[str, str]:
    """The volumes that etcd's set-up fills, by their names. A user is given its own volume and no other.

    The first has the CA's key: only the set-up mounts it.
    """
    users = {user: f"{_SECRETS}/{user}" for user in (HOST_USER, ADMIN_USER)}
    places = {"secrets": _SECRETS, "etcd-tls": f"{_SECRETS}/etcd", "root": _ROOT, **users}
    return {cluster.volume(name): place for name, place in places.items()}


def setup(cluster: Cluster, image: str) -> ContainerPlan:
    """The container that makes etcd's certificates, users and roles before etcd starts, and ends."""
    volumes = secrets(cluster) | {cluster.volume("etcd-data"): "/var/lib/etcd"}
    return ContainerPlan(
        name=cluster.container("etcd-setup"),
        image=image,
        role="etcd-setup",
        network="none",
        address=None,
        labels=cluster.labels("etcd-setup"),
        command=("etcd-setup", "--offline", f"--prefix={cluster.prefix}", _SECRETS, f"etcd=IP:{cluster.etcd_address}"),
        user="root",
        volumes=volumes,
        host_config={"NetworkMode": "none", "Binds": [f"{name}:{path}" for name, path in volumes.items()]},
    )


def etcd(cluster: Cluster, image: str) -> ContainerPlan:
    """The container that runs etcd, from the image with that ID.

    root's password is for `etcdctl-as` there, by the container's root; etcd itself cannot read it.
    """
    environment = {"ETCD_ADVERTISE_CLIENT_URLS": cluster.etcd_endpoint}
    binds: list[str] = []
    if not cluster.open_etcd:
        environment |= {
            "ETCD_CERT_FILE": "/tls/cert.pem",
            "ETCD_KEY_FILE": "/tls/key.pem",
            "ETCDCTL_CACERT": "/tls/ca.pem",
            "ETCDCTL_ENDPOINTS": cluster.etcd_endpoint,
        }
        binds = [
            f"{cluster.volume('etcd-data')}:/var/lib/etcd",
            f"{cluster.volume('etcd-tls')}:/tls:ro",
            f"{cluster.volume('root')}:{_ROOT}:ro",
        ]
    return ContainerPlan(
        name=cluster.container("etcd"),
        image=image,
        role="etcd",
        network=cluster.docker_network,
        address=cluster.etcd_address,
        labels=cluster.labels("etcd"),
        environment=environment,
        host_config={"NetworkMode": cluster.docker_network, "Binds": binds},
    )


def etcdctl(cluster: Cluster) -> tuple[str, ...]:
    """The command in etcd's container, to be run by its root, that is etcdctl with all rights."""
    return ("etcdctl",) if cluster.open_etcd else ("etcdctl-as", _ROOT)


def host(
    cluster: Cluster,
    name: str,
    image: str,
    *,
    privileged: bool,
    settings: dict[str, str] | None = None,
    cgroups: Path = CGROUPS,
) -> ContainerPlan:
    """The container that is a host.

    `settings` are more OVERLAYD_ variables for its daemon, `image` is an ID, `cgroups` is the machine's folder in which
    its systemd makes control groups.
    """
    volumes = {f"{cluster.container(name)}-{what}": path for what, path in _VOLUMES.items()}
    environment = {
        "OVERLAYD_ETCD_ENDPOINTS": cluster.etcd_endpoint,
        "OVERLAYD_ETCD_PREFIX": cluster.prefix,
        "OVERLAYD_PUBLIC_IP": str(cluster.address(name)),
    }
    config = host_config(cluster.docker_network, volumes, privileged=privileged, cgroups=cgroups)
    if not cluster.open_etcd:
        environment |= {
            "OVERLAYD_ETCD_CAFILE": f"{_LOGIN}/ca.pem",
            "OVERLAYD_ETCD_USERNAME": HOST_USER,
            "OVERLAYD_ETCD_PASSWORD_FILE": f"{_LOGIN}/{PASSWORD_FILE}",
        }
        config["Binds"].append(f"{cluster.volume(HOST_USER)}:{_LOGIN}:ro")
    return ContainerPlan(
        name=cluster.container(name),
        image=image,
        role=name,
        network=cluster.docker_network,
        address=cluster.address(name),
        labels=cluster.labels(name),
        environment=environment | (settings or {}),
        volumes=volumes,
        host_config=config,
    )


def host_config(network: str, volumes: dict[str, str], *, privileged: bool, cgroups: Path = CGROUPS) -> dict[str, Any]:
    """HostConfig for a container with systemd as PID 1, its own dockerd, and containers inside.

    Without `privileged` it grants what that does, except CAP_SYS_RESOURCE, which some machines do not have to give.
    """
    config: dict[str, Any] = {
        "NetworkMode": network,
        "CgroupnsMode": "host",
        "Tmpfs": _TMPFS,
        "Binds": [f"{cgroups}:{CGROUPS}:rw", *(f"{name}:{path}" for name, path in volumes.items())],
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

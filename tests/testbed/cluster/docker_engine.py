"""Docker, by Testcontainers and the SDK: containers from plans, commands in them, and what carries our label."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import docker
from docker.errors import (
    APIError,
    DockerException,
    ImageNotFound,
    NotFound,
    create_api_error_from_http_exception,
)
from docker.models.containers import Container
from requests.exceptions import HTTPError
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import create_labels

from images.engine import dockerd
from overlayd.errors import CommandFailed, OverlaydError
from tests.testbed.cluster import bootable, cgroups
from tests.testbed.cluster.description import CLUSTER_LABEL, ROLE_LABEL
from tests.testbed.cluster.plan import ContainerPlan

# Its image would have to be pulled. We remove by label, also after a crash.
testcontainers_config.ryuk_disabled = True

_TIMEOUT_S = 120
_SHOWN_OUTPUT_BYTES = 4000


class PlannedContainer(DockerContainer):
    """A container of Testcontainers that is made from a plan.

    Its own `start` goes through the SDK's keywords, which know neither MaskedPaths nor ReadonlyPaths.
    """

    def __init__(self, plan: ContainerPlan) -> None:
        """Values only; `start` makes it."""
        super().__init__(plan.image)
        self._plan = plan

    def start(self) -> PlannedContainer:
        """Make and start the container. One that was made and did not start is removed."""
        plan, api = self._plan, client().api
        # The stubs want an EndpointConfig where the SDK wants a dict of them.
        endpoints: Any = (
            {} if plan.address is None else {plan.network: api.create_endpoint_config(ipv4_address=str(plan.address))}
        )
        try:
            made = api.create_container(
                plan.image,
                list(plan.command) or None,
                user=plan.user or None,
                name=plan.name,
                hostname=plan.role,
                environment=plan.environment,
                labels=create_labels(plan.image, plan.labels),
                host_config=plan.host_config,
                networking_config=api.create_networking_config(endpoints),
            )
        except ImageNotFound:
            raise missing_image(plan.image) from None
        except APIError as error:
            raise OverlaydError(f"container {plan.name}: {error.explanation}") from error
        self._container = client().containers.get(made["Id"])
        try:
            self._container.start()
        except APIError as error:
            self._container.remove(force=True, v=True)
            raise OverlaydError(f"container {plan.name}: {error.explanation}") from error
        self._container.reload()
        return self


@cache
def client() -> docker.DockerClient:
    """The connection to Docker, one for all. Raises OverlaydError where none answers."""
    try:
        found = docker.from_env(timeout=_TIMEOUT_S, max_pool_size=32)
        found.ping()
    # What requests raises is an OSError, and not always wrapped.
    except (DockerException, OSError) as error:
        reason = dockerd.reason(error)
        if reason == os.strerror(errno.EACCES):
            raise OverlaydError(
                "this user may not talk to dockerd", hint="run as root, or as a user of the group docker"
            ) from error
        where = f" at DOCKER_HOST={os.environ['DOCKER_HOST']}" if os.environ.get("DOCKER_HOST") else ""
        raise OverlaydError(f"no dockerd answers{where}: {reason}", hint="start it, or run `make up`") from error
    return found


def run_in(
    container: Container, argv: Sequence[str], environment: dict[str, str] | None = None, *, user: str = ""
) -> str:
    """Run a command in a container to its end; its standard output. Raises CommandFailed with the end of its output."""
    try:
        status, frames = _executed(container, argv, environment, user)
    except APIError as error:
        raise CommandFailed(f"docker exec {container.name} {shlex.join(argv)}\n  {error.explanation}") from error
    out, err = (b"".join(text for one, text in frames if one == stream).decode(errors="replace") for stream in (1, 2))
    if status != 0:
        output_end = (err.strip() or out.strip())[-_SHOWN_OUTPUT_BYTES:]
        raise CommandFailed(
            f"docker exec {container.name} {shlex.join(argv)}\n  ended with status {status}: {output_end}"
        )
    return out


def outcome(container: Container, *argv: str, as_user: str = "", **variables: str) -> tuple[int, str]:
    """Run a command in a container, with more variables; its exit status, and stdout and stderr in one."""
    status, frames = _executed(container, argv, variables, as_user)
    return status, b"".join(text for _, text in frames).decode(errors="replace")


def _executed(
    container: Container, argv: Sequence[str], environment: dict[str, str] | None, user: str
) -> tuple[int, list[tuple[int, bytes]]]:
    """The exit status of a command in a container, and what it wrote to 1 (stdout) and 2 (stderr), each in order.

    The SDK's exec_run loses what a quick command wrote: it asks for an upgraded connection and reads from its socket,
    past what came with the answer's headers and is in their buffer already. Here the output is the answer's body.
    """
    api = client().api
    made = api.exec_create(container.id, list(argv), environment=environment, user=user)["Id"]
    url = f"{api.base_url}/v{api.api_version}/exec/{made}/start"
    # A command may be silent for as long as it likes.
    answer = api.post(url, json={"Detach": False, "Tty": False}, timeout=(_TIMEOUT_S, None))
    try:
        answer.raise_for_status()
    except HTTPError as error:
        create_api_error_from_http_exception(error)
    return int(api.exec_inspect(made)["ExitCode"]), list(_frames(answer.content))


def _frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Stream and content of each frame. Source: Docker Engine API, ContainerAttach, stream format."""
    begin = 0
    while begin < len(body):
        stream, length = struct.unpack_from(">BxxxL", body, begin)
        begin += 8 + length
        yield stream, body[begin - length : begin]


def containers(name: str | None = None) -> list[Container]:
    """The containers of one cluster, or of all clusters, running or not."""
    label = CLUSTER_LABEL if name is None else f"{CLUSTER_LABEL}={name}"
    # A container that goes away between the list and the look at it is not an error.
    return client().containers.list(all=True, filters={"label": label}, ignore_removed=True)


def names(label: str) -> list[str]:
    """The names of all containers, volumes and networks that carry a label, written `key=value`."""
    connection = client()
    filters: dict[str, Any] = {"label": label}
    found: list[Any] = [
        *connection.containers.list(all=True, filters=filters, ignore_removed=True),
        *connection.volumes.list(filters=filters),
        *connection.networks.list(filters=filters),
    ]
    return [str(item.name) for item in found]


def has_image(name: str) -> bool:
    """Whether there is an image of a name, tag or ID."""
    try:
        client().images.get(name)
    except ImageNotFound:
        return False
    return True


def image_id(name: str) -> str:
    """The id of an image. Raises OverlaydError where it has not been built."""
    try:
        return str(client().images.get(name).id)
    except ImageNotFound:
        raise missing_image(name) from None


def newest_base() -> str:
    """The base of the host image that was built last, if any can be of those that boot in containers of this machine.

    Raises OverlaydError where there is no host image.
    """
    found: list[tuple[str, str]] = []
    for image in client().images.list("overlayd/host"):
        # It has the tags of build folders, too.
        tags = [tag for tag in image.tags if tag.startswith("overlayd/host:")]
        found += [(str(image.attrs["Created"]), tag.partition(":")[2]) for tag in tags]
    if not found:
        raise missing_image("overlayd/host")
    return max(found, key=lambda row: (bootable.why_not(row[1]) is None, row))[1]


def missing_image(name: str) -> OverlaydError:
    """The error for an image that does not exist."""
    return OverlaydError(f"image {name} is not there", hint="build it: invoke build-all")


def remove_containers(name: str) -> int:
    """Remove the containers that carry a cluster's label; how many that were."""
    found = containers(name)
    ids = [str(container.id) for container in found] + [inner for container in found for inner in _inside(container)]
    count = sum(_gone(container, force=True, v=True) for container in found)
    cgroups.sweep(ids)
    return count


def _inside(container: Container) -> list[str]:
    """The ids of the containers on a host; none where it does not answer."""
    if container.status != "running" or not container.labels.get(ROLE_LABEL, "").startswith("host"):
        return []
    with contextlib.suppress(CommandFailed):
        return run_in(container, ["timeout", "5", "docker", "ps", "--all", "--quiet", "--no-trunc"]).split()
    return []


def remove_rest(name: str) -> dict[str, int]:
    """Remove the volumes and networks that carry a cluster's label; how many that were."""
    filters: dict[str, Any] = {"label": f"{CLUSTER_LABEL}={name}"}
    return {
        "volumes": sum(_gone(volume, force=True) for volume in client().volumes.list(filters=filters)),
        "networks": sum(_gone(network) for network in client().networks.list(filters=filters)),
    }


def _gone(item: Any, **how: bool) -> int:
    try:
        item.remove(**how)
    except NotFound:
        return 0
    except APIError as error:
        if error.status_code == 409 and "already in progress" in str(error.explanation):
            return 0
        raise OverlaydError(f"{item!r} cannot be removed: {error.explanation}") from error
    return 1

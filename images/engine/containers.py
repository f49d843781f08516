"""Images out of root filesystems, and out of containers in which a script ran. The one module here that asks Docker.

Everything made here carries the label `org.overlayd`; a container of a build also names the build folder it works for,
so that what a killed build left behind is found again.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import docker
import docker.utils
import requests
from docker.errors import APIError, DockerException, NotFound

from images.engine.errors import BuildError
from images.engine.process import Stop
from images.engine.stamps import LABEL, LABEL_TARGET

LABEL_BUILD = "org.overlayd.build"
_TIMEOUT_S = 600
_SETTLED_S = 60
_S_IN_NS = 1_000_000_000
_NAME = "overlayd-build-"


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How containers of an image are started, beside its files."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    stop_signal: str = "SIGTERM"
    workdir: str = "/"
    ports: Sequence[int] = ()
    volumes: Sequence[str] = ()
    healthcheck: Sequence[str] = ()

    def document(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """The same as Docker's API says it, for a commit.

        A commit's own instructions (`--change`) know no STOPSIGNAL, and it forgets the parent's: hence all of it here.
        """
        found: dict[str, Any] = {
            "Cmd": list(self.command),
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "User": self.user or "root",
            "WorkingDir": self.workdir,
            "StopSignal": self.stop_signal,
            "ExposedPorts": {f"{port}/tcp": {} for port in self.ports},
            "Volumes": {path: {} for path in self.volumes},
            # A commit adds the working container's labels, and a container has its image's: never let that one through.
            "Labels": {**labels, LABEL_BUILD: ""},
        }
        if self.healthcheck:
            found["Healthcheck"] = {
                "Test": ["CMD", *self.healthcheck],
                "Interval": 5 * _S_IN_NS,
                "Timeout": 3 * _S_IN_NS,
            }
        return found


@contextlib.contextmanager
def engine() -> Iterator[Any]:
    """Docker's low-level client, for the length of the block. A Docker that refuses or is gone is a BuildError."""
    try:
        with contextlib.closing(docker.APIClient(timeout=_TIMEOUT_S, version="auto", **_where())) as client:
            yield client
    except (DockerException, requests.RequestException) as error:
        raise BuildError(
            f"Docker: {getattr(error, 'explanation', None) or error}", hint="see that dockerd runs: docker info"
        ) from error


def _where() -> dict[str, Any]:
    return dict(docker.utils.kwargs_from_env())


def labelled_images(label: str) -> dict[str, str]:
    """The value of a label by tag, of every tagged image that has it. One request."""
    with engine() as client:
        images = client.images(filters={"label": label})
    return {tag: image["Labels"][label] for image in images for tag in image.get("RepoTags") or ()}


def import_root(root_tar: Path, config: ImageConfig, labels: Mapping[str, str], *, owner: str, stop: Stop) -> str:
    """An image out of a tar of a root filesystem; its id. It has no tag yet."""
    with engine() as client:
        bare = _imported_id(client.import_image_from_file(str(root_tar)))
        try:
            with work_container(client, bare, "exit 1", mounts={}, owner=owner, stop=stop) as container:
                return str(client.commit(container, conf=config.document(labels))["Id"])
        except BaseException:
            drop(bare)
            raise


def run_and_commit(
    parent: str,
    script: str,
    config: ImageConfig,
    labels: Mapping[str, str],
    *,
    mounts: Mapping[Path, str],
    owner: str,
    log: IO[bytes],
    stop: Stop,
) -> str:
    """An image: `parent` with what a shell script changed in it; its id. It has no tag yet.

    The script runs as root, without a network, with every folder of `mounts` readable at its place below /run, which
    like /tmp is not part of the image. The container is removed in every case.
    """
    with engine() as client, work_container(client, parent, script, mounts=mounts, owner=owner, stop=stop) as container:
        run_to_end(client, container, log, stop)
        done = client.commit(container, conf=config.document(labels))
    return str(done["Id"])


@contextlib.contextmanager
def work_container(
    client: Any,
    parent: str,
    script: str,
    *,
    mounts: Mapping[Path, str],
    owner: str,
    stop: Stop,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """A container, not started, that will run a shell script as root and without a network; its id.

    It is removed at the end of the block, and as soon as the build is told to stop.
    """
    host = client.create_host_config(
        network_mode="none",
        binds=[f"{source}:{place}:ro" for source, place in mounts.items()],
        tmpfs={"/run": "", "/tmp": "exec"},
    )
    container: str = client.create_container(
        parent,
        command=["/bin/sh", "-euxc", script],
        entrypoint=[],
        user="root",
        environment=dict(environment or {}),
        labels={LABEL: "build", LABEL_BUILD: owner},
        host_config=host,
        name=f"{_NAME}{secrets.token_hex(4)}",
    )["Id"]

    def remove() -> None:
        with engine() as other, contextlib.suppress(NotFound):
            other.remove_container(container, force=True, v=True)

    try:
        with stop.on_stop(remove):
            yield container
    finally:
        with contextlib.suppress(NotFound):
            client.remove_container(container, force=True, v=True)


def run_to_end(client: Any, container: str, log: IO[bytes], stop: Stop) -> None:
    """Start a container and follow it to its end. Raises BuildError with the last lines of what it said."""
    client.start(container)
    last: list[str] = []
    for chunk in client.logs(container, stream=True, follow=True):
        log.write(chunk)
        last = [*last, *chunk.decode(errors="replace").splitlines()][-15:]
    stop.check()
    status = client.wait(container)["StatusCode"]
    stop.check()
    if status != 0:
        raise BuildError(
            f"the script in the container ended with status {status}:\n" + "\n".join(f"  | {x}" for x in last)
        )


def tag(image: str, name: str, target: str) -> None:
    """Give an image its tag, and drop older images of the same target that have none, unless something needs them.

    What a container still runs on stays; the next build of the target drops it.
    """
    repository, _, version = name.partition(":")
    with engine() as client:
        client.tag(image, repository, version)
        for old in client.images(filters={"dangling": True, "label": f"{LABEL_TARGET}={target}"}):
            # Another checkout may be between its commit and its tag.
            if time.time() - old["Created"] > _SETTLED_S:
                with contextlib.suppress(APIError):
                    client.remove_image(old["Id"], force=False)


def drop(image: str) -> None:
    """Remove an image that never got its tag. Quiet when it is gone, or is needed."""
    with engine() as client, contextlib.suppress(APIError):
        client.remove_image(image, force=False)


def save(name: str, to: Path) -> None:
    """Write an image as the tar that `docker load` reads."""
    with engine() as client, to.open("wb") as file:
        for chunk in client.get_image(name):
            file.write(chunk)


def sweep(owner: str) -> list[str]:
    """Remove the containers that a killed build of the same build folder left behind; their short ids."""
    with engine() as client:
        found = client.containers(all=True, filters={"label": f"{LABEL_BUILD}={owner}", "name": _NAME})
        for container in found:
            with contextlib.suppress(NotFound):
                client.remove_container(container["Id"], force=True, v=True)
    return [container["Id"][:12] for container in found]


def _imported_id(answer: str) -> str:
    lines = [json.loads(line) for line in answer.splitlines() if line.strip()]
    for line in lines:
        if "error" in line:
            raise BuildError(f"Docker could not import the root filesystem: {line['error']}")
    return str(lines[-1]["status"])

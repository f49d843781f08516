"""Containers in which scripts run, and images given to Docker. The one module here that asks Docker.

Everything made here carries the label `org.overlayd`; a container of a build also names the build folder it works for,
so that what a killed build left behind is found again.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import docker
import docker.utils
import requests
from docker.errors import APIError, DockerException, NotFound

from images.engine import layers
from images.engine.errors import BuildError
from images.engine.oci import Image, Layer, Layout
from images.engine.process import Stop
from images.engine.stamps import LABEL, LABEL_TARGET

LABEL_BUILD = "org.overlayd.build"
_TIMEOUT_S = 600
_SETTLED_S = 60
_S_IN_NS = 1_000_000_000
_NAME = "overlayd-build-"
_LOADED = "Loaded image ID: "


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How containers of an image are started, beside its files; and what the image is, in a few words.

    `version` is that of overlayd, in an image that has it. `healthcheck` is a command that Docker runs every
    `health_interval_s`; while the container is younger than `health_start_s`, its failures do not count.
    """

    command: Sequence[str]
    description: str
    version: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    stop_signal: str = "SIGTERM"
    workdir: str = "/"
    ports: Sequence[int] = ()
    volumes: Sequence[str] = ()
    healthcheck: Sequence[str] = ()
    health_interval_s: int = 5
    health_timeout_s: int = 3
    health_start_s: int = 0

    def document(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """The same as an image's config says it (image-spec, config.md; the health check is Docker's own)."""
        found: dict[str, Any] = {
            "Cmd": list(self.command),
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "User": self.user or "root",
            "WorkingDir": self.workdir,
            "StopSignal": self.stop_signal,
            "ExposedPorts": {f"{port}/tcp": {} for port in self.ports},
            "Volumes": {path: {} for path in self.volumes},
            "Labels": dict(labels),
        }
        if self.healthcheck:
            found["Healthcheck"] = {
                "Test": ["CMD", *self.healthcheck],
                "Interval": self.health_interval_s * _S_IN_NS,
                "Timeout": self.health_timeout_s * _S_IN_NS,
                "StartPeriod": self.health_start_s * _S_IN_NS,
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


def load(layout: Layout, image: Image, scratch: Path, *, known: Sequence[Layer] = ()) -> str:
    """Give an image of the layout to Docker; Docker's ID for it. It has no tag yet.

    `known` are layers that Docker has already. A Docker that wants them all the same gets them.
    """
    archive = scratch / "docker.tar"
    try:
        with engine() as client:
            for left_out in (known, ()):
                layout.docker_archive(image, archive, known=left_out)
                try:
                    with archive.open("rb") as file:
                        return _loaded_id(client.load_image(file, quiet=True))
                except (BuildError, APIError):
                    if not left_out:
                        raise
    finally:
        archive.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def see_to(layout: Layout, image: Image, scratch: Path) -> None:
    """See that Docker has an image of the layout under its name: give it where it has none, or another."""
    with engine() as client:
        try:
            found = client.inspect_image(image.name)
            same = found["RootFS"]["Layers"] == [layer.digest for layer in image.layers]
            same = same and (found["Config"]["Labels"] or {}) == image.labels
        except NotFound:
            same = False
    if not same:
        tag(load(layout, image, scratch), image.name, image.labels.get(LABEL_TARGET, ""))


def changes(client: Any, container: str, to: Path, *, epoch: int, stop: Stop) -> None:
    """Write what a container, which has ended, changed of its image, as a layer's tar."""
    listed = client.diff(container) or []
    with contextlib.closing(_Chunks(client.export(container))) as exported:
        layers.of_changes(listed, cast(IO[bytes], exported), to, epoch=epoch, stop=stop)


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
    """Remove an image that never got its tag. Quiet when it is gone, or is needed.

    The same inputs give the same image: an older one may be this very image, and has its tag.
    """
    with engine() as client, contextlib.suppress(APIError):
        if not client.inspect_image(image)["RepoTags"]:
            client.remove_image(image, force=False)


def sweep(owner: str) -> list[str]:
    """Remove the containers that a killed build of the same build folder left behind; their short ids."""
    with engine() as client:
        found = client.containers(all=True, filters={"label": f"{LABEL_BUILD}={owner}", "name": _NAME})
        for container in found:
            with contextlib.suppress(NotFound):
                client.remove_container(container["Id"], force=True, v=True)
    return [container["Id"][:12] for container in found]


class _Chunks:
    """Bytes that come in chunks of any size, read as tarfile reads a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def read(self, size: int) -> bytes:
        found = [self._left]
        have = len(self._left)
        while have < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            found.append(chunk)
            have += len(chunk)
        whole = b"".join(found)
        self._left = whole[size:]
        return whole[:size]

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


def _loaded_id(answer: Iterable[Mapping[str, Any]]) -> str:
    found = None
    for line in answer:
        if "error" in line:
            raise BuildError(f"Docker could not load the image: {line['error']}")
        said = str(line.get("stream", ""))
        if said.startswith(_LOADED):
            found = said.removeprefix(_LOADED).strip()
    if found is None:
        raise BuildError("Docker loaded the image and did not say its ID")
    return found

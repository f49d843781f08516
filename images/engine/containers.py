"""Containers in which the scripts of a build run, and what an image says about how its containers are started.

Every container that is made here has the label `org.overlayd`, and one that names its build folder: by that the next
build finds the containers that a killed one left.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import docker
import docker.utils
import requests
from docker.errors import DockerException, NotFound

from images.engine import layers
from images.engine.annotations import LABEL, LABEL_BUILD
from images.engine.errors import BuildError
from images.engine.process import Stop

_TIMEOUT_S = 600
_S_IN_NS = 1_000_000_000
_NAME = "overlayd-build-"


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What an image holds beside its files: how its containers are started, and what it is, in a few words.

    `version` is the version of overlayd in an image that has it, else empty. `healthcheck` is a command that Docker
    runs every `health_interval_s`; while the container is younger than `health_start_s`, its failures do not count.
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
        """The same as an image's config has it (image-spec, config.md; Docker adds the health check to that)."""
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
    """Docker's low-level client, for the length of the block. Raises BuildError when Docker refuses or is gone."""
    try:
        with contextlib.closing(docker.APIClient(timeout=_TIMEOUT_S, version="auto", **_where())) as client:
            yield client
    except NotFound as error:
        raise BuildError(
            f"Docker: {error.explanation}", hint="it was removed meanwhile; the same command makes it again"
        ) from error
    except (DockerException, requests.RequestException) as error:
        raise BuildError(
            f"Docker: {getattr(error, 'explanation', None) or error}", hint="see that dockerd runs: docker info"
        ) from error


def _where() -> dict[str, Any]:
    return dict(docker.utils.kwargs_from_env())


def changes(client: Any, container: str, to: Path, *, epoch: int, stop: Stop) -> None:
    """Write what a container, which has ended, changed in its image's files, as a layer's tar."""
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
    """A container, not started yet, that will run a shell script as root and without a network; its id.

    It is removed at the end of the block, and as soon as the build is stopped.
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
        # The proxies of the user's Docker client are no use without a network.
        use_config_proxy=False,
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
    """Start a container and wait for its end. Raises BuildError with the last lines of its output."""
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


def remove_leftovers(owner: str) -> list[str]:
    """Remove the containers that a killed build of the same build folder left; their short ids."""
    with engine() as client:
        found = client.containers(all=True, filters={"label": f"{LABEL_BUILD}={owner}", "name": _NAME})
        for container in found:
            with contextlib.suppress(NotFound):
                client.remove_container(container["Id"], force=True, v=True)
    return [container["Id"][:12] for container in found]


class _Chunks:
    """Makes a file for tarfile out of chunks of any size."""

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

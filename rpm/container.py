"""Files made in a container: a shell script runs in an image, without a network, and what it left is fetched.

Nothing is mounted to be written to, so what is fetched belongs to whoever builds, and a stopped build leaves nothing.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from images.engine import containers
from images.engine.step import Step


def make(step: Step, image: str, script: str, *, mounts: Mapping[Path, str], fetch: str, to: Path) -> None:
    """Run `script` in `image` and put the folder `fetch` that it made at `to`, which must not exist.

    `mounts` are folders of this machine by their place below /run inside, readable only. `fetch` is an absolute path and
    not below /run or /tmp, which are gone when the script ends. Raises BuildError.
    """
    with (
        containers.engine() as client,
        containers.work_container(client, image, script, mounts=mounts, owner=step.owner, stop=step.stop) as container,
    ):
        containers.run_to_end(client, container, step.log, step.stop)
        chunks, _stat = client.get_archive(container, fetch)
        # Docker's tar begins with the last part of the path.
        unpacked = to.with_name(f"{to.name}.unpacked")
        with tarfile.open(fileobj=_Reader(iter(chunks)), mode="r|") as tar:
            tar.extractall(unpacked, filter="tar")
    (unpacked / Path(fetch).name).rename(to)
    unpacked.rmdir()


class _Reader(IO[bytes]):
    """Chunks as a file that tarfile can read as a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                size = len(self._rest)
                break
            self._rest += chunk
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

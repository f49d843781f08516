"""What a target's build function is given: where to write, how to run things, and how to make an image.

Everything is made under a temporary name. The runner puts it in its place when the function has returned.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from images.engine import containers, process, stamps
from images.engine.containers import ImageConfig
from images.engine.graph import Target
from images.engine.inputs import Inputs
from images.engine.process import Stop


@dataclass(kw_only=True)
class Step:
    """One run of one target's build function.

    `root` is the checkout, `build` its build folder, `scratch` an empty folder that is removed afterwards. `log` takes
    the output of everything. `epoch` is the commit's time in Unix seconds: nothing that is made is to be younger.
    """

    target: Target
    inputs: Inputs
    root: Path
    build: Path
    scratch: Path
    log: IO[bytes]
    stop: Stop
    owner: str
    epoch: int
    image_id: str | None = None
    _outputs: dict[Path, Path] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the image that is being built: what it is made of."""
        return stamps.labels(self.target, self.inputs)

    def output(self, path: Path) -> Path:
        """Where to write one of the target's outputs; it is moved to its place (below the build folder) afterwards."""
        if path not in self.target.outputs:
            raise ValueError(f"{path} is not an output of {self.target.name}")
        place = self.scratch / "out" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        self._outputs[path] = place
        return place

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
    ) -> None:
        """Run a command to its end, its output going to the log. See images.engine.process.run."""
        process.run(argv, log=self.log, stop=self.stop, cwd=cwd, env=env, stdin=stdin, stdout=stdout)

    def say(self, line: str) -> None:
        """Put a line of our own into the log."""
        self.log.write(f"# {line}\n".encode())

    def import_root(self, tar: Path, config: ImageConfig) -> None:
        """Make the image out of a tar of a root filesystem."""
        self.stop.check()
        self.image_id = containers.import_root(tar, config, self.labels, owner=self.owner, stop=self.stop)

    def run_and_commit(
        self, parent: str, script: str, config: ImageConfig, *, mounts: Mapping[Path, str] | None = None
    ) -> None:
        """Make the image out of another, by a shell script that runs in it as root and without a network.

        `mounts` are folders of this machine by their place below /run inside, readable only.
        """
        self.image_id = containers.run_and_commit(
            parent,
            script,
            config,
            self.labels,
            mounts=mounts or {},
            owner=self.owner,
            log=self.log,
            stop=self.stop,
        )

    def finish(self) -> None:
        """Put what was made in its place: files first, the image's tag last."""
        self.stop.check()
        for path in self.target.outputs:
            made = self._outputs.get(path)
            if made is None or not made.exists():
                raise ValueError(f"{self.target.name} promised {path} and did not make it")
        for path, made in self._outputs.items():
            final = self.build / path
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.is_dir() and not final.is_symlink():
                # A rename cannot replace a folder: the old one steps aside, to go with the scratch folder.
                final.rename(self.scratch / f"old.{final.name}")
            made.rename(final)
        if self.target.image is not None:
            if self.image_id is None:
                raise ValueError(f"{self.target.name} promised the image {self.target.image} and did not make it")
            containers.tag(self.image_id, self.target.image, self.target.name)

    def abandon(self) -> None:
        """Drop what was made and not put in its place, and the scratch folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)

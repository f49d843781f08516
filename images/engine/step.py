"""One build of a target, as its build function sees it: where to write, how to run commands and make an image.

Results are written to a scratch folder. The runner puts them in their places when the function has returned.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from images.engine import containers, docker_images, inputs, layers, process
from images.engine.annotations import LABEL_INPUTS, input_labels, oci_labels
from images.engine.containers import ImageConfig
from images.engine.errors import BuildError
from images.engine.graph import Target
from images.engine.inputs import Inputs
from images.engine.oci import Image, Layer, Layout
from images.engine.process import Stop


@dataclass(kw_only=True)
class Step:
    """One run of one target's build function.

    `root` is the checkout, `build` its build folder, `scratch` an empty folder that is removed afterwards. The output
    of all commands goes to `log`. `epoch`, in Unix seconds, is the time that the result states as its own, and no file
    in it is younger: SOURCE_DATE_EPOCH, or the newest EPOCH among the facts of what the target needs. `made` is the
    image that was made, `given` is its ID in Docker once Docker has it under its name.
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
    layout: Layout
    made: Image | None = None
    given: str | None = None
    _loaded: str | None = None
    _outputs: dict[Path, Path] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        """The labels by which the image that is being built is known."""
        return input_labels(self.target.name, self.inputs)

    @functools.cached_property
    def checkout(self) -> Path:
        """A folder with a copy of the target's files of the checkout, at the same paths, and nothing else of it.

        The copies have the user who builds as owner, the date `epoch`, and the mode 0755 where the file in the
        checkout is executable, else 0644; links are copied as links.
        """
        copy = self.scratch / "checkout"
        copy.mkdir()
        for file in (file for path in self.target.files for file in inputs.files_of(self.root / path)):
            place = copy / file.relative_to(self.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place, follow_symlinks=False)
            if not file.is_symlink():
                place.chmod(0o755 if inputs.is_program(file) else 0o644)
            os.utime(place, (self.epoch, self.epoch), follow_symlinks=False)
        return copy

    def output(self, path: Path) -> Path:
        """The path to write one of the target's outputs to. Afterwards it is moved to its place in the build folder."""
        if path not in self.target.outputs:
            raise ValueError(f"{path} is not an output of {self.target.name}")
        place = self.scratch / "out" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        self._outputs[path] = place
        return place

    def write_facts(self, facts: Inputs) -> None:
        """Write the target's facts (images.engine.graph.Target)."""
        if self.target.facts is None:
            raise ValueError(f"{self.target.name} is defined without facts")
        self.output(self.target.facts).write_text(json.dumps(dict(facts), indent=1, sort_keys=True) + "\n")

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
    ) -> None:
        """Run a command to its end, its output going to the log. See images.engine.process.run.

        Of the environment it has what `process.clean_environment` says, and `env`.
        """
        base_env = process.clean_environment(network=self.target.network)
        process.run(argv, log=self.log, stop=self.stop, cwd=cwd, env=env, stdin=stdin, stdout=stdout, base_env=base_env)

    def report(self, line: str) -> None:
        """Write a line of our own to the log."""
        self.log.write(f"# {line}\n".encode())

    def import_root(self, root: Path, config: ImageConfig) -> None:
        """Make the image of a root filesystem, which is removed afterwards."""
        tar = self.scratch / "layer.tar"
        layers.of_folder(root, tar, epoch=self.epoch, log=self.log, stop=self.stop)
        shutil.rmtree(root)
        self._make(config, tar, [])

    def run_and_commit(
        self, parent: str, script: str, config: ImageConfig, *, mounts: Mapping[Path, str] | None = None
    ) -> None:
        """Make the image of another one, `parent`, by a shell script that runs in it as root and without a network.

        `mounts` are folders of this machine by the place below /run where the script finds them, read-only.
        """
        below = self._in_layout(parent)
        tar = self.scratch / "layer.tar"
        with (
            containers.engine() as client,
            containers.work_container(
                client,
                self.docker_id(parent),
                script,
                mounts=mounts or {},
                owner=self.owner,
                stop=self.stop,
                # Compiled Python would hold the time of its making; the packages bring theirs compiled.
                environment={"SOURCE_DATE_EPOCH": str(self.epoch), "PYTHONDONTWRITEBYTECODE": "1"},
            ) as container,
        ):
            containers.run_to_end(client, container, self.log, self.stop)
            containers.changes(client, container, tar, epoch=self.epoch, stop=self.stop)
        self._make(config, tar, below.layers)

    def docker_id(self, name: str) -> str:
        """Docker's ID of an image that was built, for making containers of it. Raises BuildError."""
        return docker_images.docker_id(self.layout, self._in_layout(name), self.owner, self.scratch)

    def recover(self) -> bool:
        """Load the image into Docker again where it was built of the same inputs before; False where it was not."""
        image = self.layout.image(self.target.image) if self.target.image else None
        if image is None or image.labels.get(LABEL_INPUTS) != self.labels[LABEL_INPUTS]:
            return False
        self.given = docker_images.docker_id(self.layout, image, self.owner, self.scratch)
        docker_images.name(self.given, image.name)
        return True

    def _in_layout(self, name: str) -> Image:
        found = self.layout.image(name)
        if found is None:
            raise BuildError(f"the image {name} is not among those that were built", hint="invoke build-all makes it")
        return found

    def _make(self, config: ImageConfig, tar: Path, below: Sequence[Layer]) -> None:
        self.stop.check()
        name = self.target.image or ""
        layer = self.layout.add_layer(tar, created_by=self.target.name)
        labels = {**self.labels, **oci_labels(name, config.description, config.version, self.epoch)}
        self.made = self.layout.add_image(name, [*below, layer], config.document(labels), epoch=self.epoch)
        self._loaded = docker_images.load(self.layout, self.made, self.owner, self.scratch, known=below)

    def finish(self) -> None:
        """Put the results in their places: files first, the image's tag last. Raises ValueError when one is missing."""
        for path in self.target.outputs:
            made = self._outputs.get(path)
            if made is None or not made.exists():
                raise ValueError(f"{self.target.name} did not make its output {path}")
        for path, made in self._outputs.items():
            final = self.build / path
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.is_dir() and not final.is_symlink():
                # A rename cannot replace a folder: the old one goes to the scratch folder, and is removed with it.
                final.rename(self.scratch / f"old.{final.name}")
            made.rename(final)
        if self.target.image is not None:
            if self.made is None or self._loaded is None:
                raise ValueError(f"{self.target.name} did not make its image {self.target.image}")
            self.layout.publish(self.made)
            self.given = docker_images.publish(self._loaded, self.owner, self.target.image)
            self._loaded = None

    def abandon(self) -> None:
        """Remove results that were not put in their places, and the scratch folder."""
        if self._loaded is not None:
            docker_images.drop(self._loaded)
        shutil.rmtree(self.scratch, ignore_errors=True)

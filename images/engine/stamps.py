"""What is known of the last build of every target: a stamp, a JSON file below the build folder.

A stamp is written when the results of a build are in their places: a killed build leaves an old stamp or none, never a
wrong one. An image is complete when the layout has it and Docker has this very image under its name; a target that
makes files is complete when all of them exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from images.engine import files
from images.engine.annotations import LABEL_INPUTS
from images.engine.graph import CACHE, Built, Target
from images.engine.inputs import Inputs, fingerprint
from images.engine.oci import Layout
from images.engine.tags import TaggedImage, own_tag


class Stamps:
    """Reads and writes what is known of last builds.

    `labelled_images` asks Docker for the images of ours that it has, by tag. It is called when the first image is
    looked up, and again after each stamp that was written.
    """

    def __init__(self, build: Path, layout: Layout, labelled_images: Callable[[], Mapping[str, TaggedImage]]) -> None:
        self._build = build
        self._owner = str(build)
        self._layout = layout
        self._labelled_images = labelled_images
        self._tags: Mapping[str, TaggedImage] | None = None

    def built(self, target: Target) -> Built | None:
        """What is known of a target's last build; None when there was none, or its record cannot be read."""
        try:
            found = json.loads(self._path(target).read_text())
            inputs, facts, image = found["inputs"], found["facts"], found.get("image")
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not _is_inputs(inputs) or not _is_inputs(facts):
            return None
        complete = all((self._build / path).exists() for path in target.outputs)
        if target.image is not None:
            complete = complete and self._has_image(target.image, fingerprint(inputs), image)
        return Built(inputs=inputs, facts=facts, complete=complete)

    def write(self, target: Target, inputs: Inputs, image: str | None = None) -> None:
        """Record a build whose results are in their places; `image` is Docker's ID of the image that was made.

        Raises ValueError when the facts that the target should have written are not a JSON object of strings.
        """
        facts = json.loads((self._build / target.facts).read_text()) if target.facts else {}
        if not _is_inputs(facts):
            raise ValueError(f"{target.name}: its facts in {target.facts} are no JSON object of strings")
        record = {"inputs": dict(inputs), "facts": facts, "image": image}
        files.write(self._path(target), json.dumps(record, indent=1, sort_keys=True) + "\n")
        self._tags = None

    def forget(self, target: Target) -> None:
        """Remove the stamp of a target whose results are about to be replaced."""
        self._path(target).unlink(missing_ok=True)

    def _path(self, target: Target) -> Path:
        # `invoke clean` keeps what lies below CACHE, and so it keeps the stamps of what lies there.
        kept = bool(target.outputs) and all(CACHE in path.parents for path in target.outputs)
        return (self._build / CACHE if kept else self._build) / "stamps" / f"{target.name}.json"

    def _has_image(self, name: str, wanted: str, docker_id: str | None) -> bool:
        """Whether the layout has the image, and in Docker its name and our tag are of the image that it was given."""
        if self._tags is None:
            self._tags = self._labelled_images()
        image = self._layout.image(name)
        if image is None or image.labels.get(LABEL_INPUTS) != wanted:
            return False
        found = [self._tags.get(tag) for tag in (name, own_tag(self._owner, name))]
        return all(one is not None and one.id == docker_id for one in found)


def _is_inputs(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in found.items())

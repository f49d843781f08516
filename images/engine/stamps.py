"""What is known of the last build of every target: a stamp below the build folder.

A stamp is written after what it speaks of is in place: a killed build leaves an old stamp or none, never a wrong one.
An image is complete when the layout has it and Docker has it under its tag; a target of files when they are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from images.engine.graph import CACHE, Built, Target
from images.engine.inputs import Inputs, fingerprint
from images.engine.oci import Layout

LABEL = "org.overlayd"
LABEL_TARGET = "org.overlayd.target"
LABEL_HASH = "org.overlayd.inputs"


def labels(target: Target, inputs: Inputs) -> dict[str, str]:
    """The labels by which an image of this target is known to be ours, and to be made of these inputs."""
    return {LABEL: "image", LABEL_TARGET: target.name, LABEL_HASH: fingerprint(inputs)}


class Stamps:
    """Reads and writes what is known of last builds. Docker is asked once, when the first image is looked up."""

    def __init__(self, build: Path, layout: Layout) -> None:
        self._build = build
        self._layout = layout
        self._tags: Mapping[str, str] | None = None

    def built(self, target: Target) -> Built | None:
        """What is known of a target's last build; None when there was none, or its record cannot be read."""
        try:
            found = json.loads(self._path(target).read_text())
            inputs, facts = found["inputs"], found["facts"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not _is_inputs(inputs) or not _is_inputs(facts):
            return None
        complete = all((self._build / path).exists() for path in target.outputs)
        if target.image is not None:
            complete = complete and self._has_image(target.image, fingerprint(inputs))
        return Built(inputs=inputs, facts=facts, complete=complete)

    def write(self, target: Target, inputs: Inputs) -> None:
        """Record a build whose results are in their places. Raises ValueError when its facts are not as promised."""
        facts = json.loads((self._build / target.facts).read_text()) if target.facts else {}
        if not _is_inputs(facts):
            raise ValueError(f"{target.name} promised facts in {target.facts}, and they are no JSON object of strings")
        final = self._path(target)
        final.parent.mkdir(parents=True, exist_ok=True)
        half = final.with_suffix(".half")
        half.write_text(json.dumps({"inputs": dict(inputs), "facts": facts}, indent=1, sort_keys=True) + "\n")
        half.rename(final)
        self._tags = None

    def forget(self, target: Target) -> None:
        """Drop the record of what is about to be replaced."""
        self._path(target).unlink(missing_ok=True)

    def _path(self, target: Target) -> Path:
        # What is kept when the rest is removed keeps its record too.
        kept = bool(target.outputs) and all(CACHE in path.parents for path in target.outputs)
        return (self._build / CACHE if kept else self._build) / "stamps" / f"{target.name}.json"

    def _has_image(self, name: str, wanted: str) -> bool:
        if self._tags is None:
            from images.engine import containers  # noqa: PLC0415  # importing docker costs 0.2 s

            self._tags = containers.labelled_images(LABEL_HASH)
        image = self._layout.image(name)
        return image is not None and image.labels.get(LABEL_HASH) == wanted == self._tags.get(name)


def _is_inputs(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in found.items())

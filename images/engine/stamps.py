"""What is known of the last build of every target: a file below the build folder, or an image's labels.

A stamp is written after what it speaks of is in place: a killed build leaves an old stamp or none, never a wrong one.
"""

from __future__ import annotations

import json
from pathlib import Path

from images.engine.graph import Built, Target
from images.engine.inputs import Inputs, fingerprint

LABEL = "org.overlayd"
LABEL_TARGET = "org.overlayd.target"
LABEL_HASH = "org.overlayd.inputs"
LABEL_DETAIL = "org.overlayd.inputs.detail"


def labels(target: Target, inputs: Inputs) -> dict[str, str]:
    """The labels that an image of this target carries."""
    return {
        LABEL: "image",
        LABEL_TARGET: target.name,
        LABEL_HASH: fingerprint(inputs),
        LABEL_DETAIL: json.dumps(dict(inputs), sort_keys=True, separators=(",", ":")),
    }


class Stamps:
    """Reads and writes what is known of last builds. Docker is asked once, when the first image is looked up."""

    def __init__(self, build: Path) -> None:
        self._folder = build / "stamps"
        self._build = build
        self._images: dict[str, Inputs] | None = None

    def built(self, target: Target) -> Built | None:
        """What the last build of a target had for inputs; None when there was none, or its record cannot be read."""
        inputs = self._image_inputs().get(target.image) if target.image else self._read(target.name)
        if inputs is None:
            return None
        return Built(inputs=inputs, complete=all((self._build / path).exists() for path in target.outputs))

    def write(self, target: Target, inputs: Inputs) -> None:
        """Record a build of files. An image carries its own record."""
        self._folder.mkdir(parents=True, exist_ok=True)
        final = self._folder / f"{target.name}.json"
        half = final.with_suffix(".half")
        half.write_text(json.dumps(dict(inputs), indent=1, sort_keys=True) + "\n")
        half.rename(final)

    def forget(self, target: Target) -> None:
        """Drop the record of files that are about to be replaced."""
        (self._folder / f"{target.name}.json").unlink(missing_ok=True)

    def _read(self, name: str) -> Inputs | None:
        try:
            found = json.loads((self._folder / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return found if _is_inputs(found) else None

    def _image_inputs(self) -> dict[str, Inputs]:
        if self._images is None:
            from images.engine import containers  # noqa: PLC0415  # importing docker costs 0.2 s

            self._images = {}
            for tag, found in containers.labelled_images(LABEL_DETAIL).items():
                try:
                    inputs = json.loads(found)
                except ValueError:
                    continue
                if _is_inputs(inputs):
                    self._images[tag] = inputs
        return self._images


def _is_inputs(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in found.items())

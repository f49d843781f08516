"""This checkout, and the folder below it where everything that is built lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from images.engine import docker_images
from images.engine.oci import Layout
from images.engine.stamps import Stamps

ROOT = Path(__file__).resolve().parents[2]
OCI = Path("oci")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A checkout by its root folder."""

    root: Path

    @property
    def build(self) -> Path:
        """The build folder."""
        return self.root / "build"

    @property
    def owner(self) -> str:
        """What containers of a build of this folder are labelled with."""
        return str(self.build)

    @property
    def layout(self) -> Layout:
        """The images that were built here."""
        return Layout(self.build / OCI)

    @property
    def stamps(self) -> Stamps:
        """What is known of the last build of each target."""
        return Stamps(self.build, self.layout, docker_images.labelled_images)


PLACE = Place(root=ROOT)

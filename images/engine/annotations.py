"""What an image says about itself: labels that the OCI image specification names, and ours, which tell its inputs."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

from images.engine.errors import BuildError
from images.engine.inputs import Inputs, fingerprint

PREFIX = "org.opencontainers.image."
CREATED = f"{PREFIX}created"
# On every image and container of ours: what it is.
LABEL = "org.overlayd"
# The target that an image was made for, and the digest over all its inputs.
LABEL_TARGET = "org.overlayd.target"
LABEL_INPUTS = "org.overlayd.inputs"
# On a container of a build: the build folder it works for.
LABEL_BUILD = "org.overlayd.build"


def input_labels(target: str, inputs: Inputs) -> dict[str, str]:
    """The labels by which an image is known to be of this target, and made of these inputs."""
    return {LABEL: "image", LABEL_TARGET: target, LABEL_INPUTS: fingerprint(inputs)}


def oci_labels(tag: str, description: str, software: str, epoch: int) -> dict[str, str]:
    """Labels for an image by its tag (`overlayd/etcd:debian12-rpm`).

    `software` is the version of overlayd where the image holds it. Any other image has its base as its version: with
    overlayd's, each new version would build all images anew.
    """
    name, _, base = tag.removeprefix("overlayd/").partition(":")
    said = {
        "title": tag.partition(":")[0],
        "description": description,
        "version": software or base,
        "vendor": "overlayd",
        "source": "https://github.com/overlayd/overlayd",
        "documentation": f"images/{name}/README.md",
        "base.name": base,
        "created": timestamp(epoch),
    }
    return {PREFIX + key: value for key, value in said.items()}


def timestamp(epoch: int) -> str:
    """A time in Unix seconds as the image specification writes it: RFC 3339, in UTC."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def version(root: Path) -> str:
    """The version of overlayd, read without importing it. Raises BuildError."""
    path = root / "daemon/overlayd/__init__.py"
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str(found))):
                return found
    raise BuildError(f"{path} sets no __version__")

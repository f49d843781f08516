"""What an image says about itself: the labels, and annotations, that the OCI image specification names."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

from images.engine.errors import BuildError

_PREFIX = "org.opencontainers.image."


def described(tag: str, description: str, software: str, epoch: int) -> dict[str, str]:
    """Labels for an image by its tag (`overlayd/etcd:debian12-rpm`).

    `software` is the version of what was built here and is in it. Without any, the image has no version but its base:
    else every change of overlayd's would make all images anew.
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
        "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {_PREFIX + key: value for key, value in said.items()}


def version(root: Path) -> str:
    """The version of overlayd, read without importing it. Raises BuildError."""
    path = root / "daemon/overlayd/__init__.py"
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str(found))):
                return found
    raise BuildError(f"{path} sets no __version__")

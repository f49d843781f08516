"""The target that takes stock of the frozen program, for the RPM's bill of materials."""

from __future__ import annotations

from pathlib import Path

from images.bases.base import Base
from images.engine.graph import Target
from rpm import container

NAME = "rpm.inventory"
INVENTORY = Path("rpm/inventory.json")
_MADE = "/inventory.json"


def target(base: Base, *, frozen: Path, wheelhouse: Path, python: str) -> Target:
    """`frozen` and `wheelhouse` are below the build folder; `python` is the interpreter of the freezer image."""
    return container.target(
        name=NAME,
        base=base,
        code=Path(__file__),
        script=f"cd {container.CHECKOUT} && {python} -m rpm.inventory.take /run/frozen /run/wheelhouse {_MADE}",
        mounts={frozen: "/run/frozen", wheelhouse: "/run/wheelhouse"},
        fetch=_MADE,
        output=INVENTORY,
        files=[Path("rpm/__init__.py"), Path("rpm/inventory/__init__.py"), Path("rpm/inventory/take.py")],
        needs=("rpm.wheelhouse", "rpm.freeze"),
    )

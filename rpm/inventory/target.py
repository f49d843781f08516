"""The target that takes stock of the frozen program, for the RPM's bill of materials."""

from __future__ import annotations

from pathlib import Path

from images.bases.base import Base
from images.engine import inputs
from images.engine.graph import Target
from images.engine.step import Step
from rpm import container, source

NAME = "rpm.inventory"
INVENTORY = Path("rpm/inventory.json")
_MADE = "/inventory.json"


def target(base: Base, *, frozen: Path, wheelhouse: Path, python: str) -> Target:
    """`frozen` and `wheelhouse` are below the build folder; `python` is the interpreter of the freezer image."""
    root = source.ROOT
    script = f"cd /run && {python} -m rpm.inventory.take /run/frozen /run/wheelhouse {_MADE}"

    def build(step: Step) -> None:
        container.make(
            step,
            base.tag("freezer"),
            script,
            mounts={
                step.build / frozen: "/run/frozen",
                step.build / wheelhouse: "/run/wheelhouse",
                root / "rpm": "/run/rpm",
            },
            fetch=_MADE,
            to=step.output(INVENTORY),
        )

    return Target(
        name=NAME,
        build=build,
        inputs=inputs.of_values(script=script) | inputs.of_files(root, [root / "rpm/inventory/take.py"]),
        needs=("rpm.wheelhouse", "rpm.freeze"),
        outputs=(INVENTORY,),
    )

"""The targets that find out what the frozen program is made of: for the RPM's SBOM, and for its licence texts."""

from __future__ import annotations

from pathlib import Path

from images.bases.base import Base
from images.engine.graph import Target
from rpm import container, source

NAME = "rpm.inventory"
LICENCES_NAME = "rpm.licences"
INVENTORY = Path("rpm/inventory.json")
# It has a folder `texts` and a file `expression`.
LICENCES = Path("rpm/licenses")
_MADE = "/inventory.json"
_MADE_LICENCES = "/licenses"
_CODE = Path("rpm/inventory")


def targets(base: Base, *, frozen: Path, wheelhouse: Path, python: str) -> tuple[Target, Target]:
    """Both targets. `frozen` and `wheelhouse` are below the build folder; `python` is that of the freezer image."""
    code = [Path("rpm/__init__.py"), *(_CODE / name for name in ("__init__.py", "parts.py"))]
    run = f"cd {container.CHECKOUT} && {python} -m rpm.inventory"
    inventory = container.target(
        name=NAME,
        base=base,
        code=Path(__file__),
        script=f"{run}.collect /run/frozen /run/wheelhouse {source.LICENCES}/parts.toml {_MADE}",
        mounts={frozen: "/run/frozen", wheelhouse: "/run/wheelhouse"},
        fetch=_MADE,
        output=INVENTORY,
        files=[*code, _CODE / "collect.py", source.LICENCES / "parts.toml"],
        needs=("rpm.wheelhouse", "rpm.freeze"),
    )
    licences = container.target(
        name=LICENCES_NAME,
        base=base,
        code=Path(__file__),
        script=f"{run}.licences /run/inventory.json {source.LICENCES} {_MADE_LICENCES}",
        mounts={INVENTORY: "/run/inventory.json"},
        fetch=_MADE_LICENCES,
        output=LICENCES,
        files=[*code, _CODE / "licences.py", source.LICENCES],
        needs=(NAME,),
    )
    return inventory, licences

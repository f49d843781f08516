"""Images that are made of another image by a shell script that runs in it: all of ours but the base and the probe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from images.bases import dnf
from images.bases.base import Base
from images.bases.product import image_target
from images.engine import target as targets
from images.engine.containers import ImageConfig
from images.engine.graph import Target
from images.engine.place import ROOT
from images.engine.step import Step

# Where the files/ folder of an image is mounted while its script runs.
FILES = "/run/overlayd/files"
# Folders are not copied: those of the image have the modes that its packages gave them.
_COPY_FILES = f"""\
cd {FILES}
find . ! -type d | while read -r file; do
    mkdir -p "/${{file%/*}}"
    cp --no-dereference --preserve=mode,timestamps --remove-destination "$file" "/$file"
done
cd /
"""


def target(
    *,
    image: str,
    recipe: Path,
    base: Base,
    parent: str,
    packages: tuple[str, ...],
    config: ImageConfig,
    script: str = "",
    mounts: Mapping[Path, str] | None = None,
    needs: tuple[str, ...] = (),
) -> Target:
    """The target of an image: in `parent` packages are installed, the recipe's files/ are copied, and a script is run.

    `image` and `parent` are names without `overlayd/` and tag; `recipe` is the file of the recipe's module. `mounts`
    are folders below the build folder, each with the place where the script finds it; `needs` are the targets that make
    them.
    """
    files = (recipe.parent / "files").relative_to(ROOT)
    has_files = (ROOT / files).is_dir()
    lines = dnf.install_script(base, packages) if packages else ""
    lines += _COPY_FILES if has_files else ""
    lines += script + dnf.clean_script(base)

    def build(step: Step) -> None:
        places = {step.build / source: place for source, place in (mounts or {}).items()}
        if packages:
            places[step.build / base.repository] = dnf.MOUNT
            places[(step.build / base.keys).parent] = dnf.KEYS_MOUNT
        if has_files:
            places[step.checkout / files] = FILES
        step.run_and_commit(base.tag(parent), lines, config, mounts=places)

    return targets.target(
        name=image_target(image),
        build=build,
        code=[recipe, Path(__file__)],
        values={**base.installing, "packages": packages, "config": vars(config), "script": script},
        files=(files,) if has_files else (),
        needs=(image_target(parent), *([base.repository_target] if packages else []), *needs),
        image=base.tag(image),
    )

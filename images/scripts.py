"""Images that are another image and a shell script run in it: the way all but the base and the probe are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from images.bases import dnf
from images.bases.base import Base
from images.engine import inputs
from images.engine.containers import ImageConfig
from images.engine.graph import Target
from images.engine.step import Step

# Where an image's own files/ folder is mounted while its script runs.
FILES = "/run/overlayd/files"
_COPY_FILES = f"""\
cd {FILES}
find . -type f | while read -r file; do
    mode=644; [ ! -x "$file" ] || mode=755
    install -D -m "$mode" "$file" "/$file"
done
cd /
"""


def target(
    *,
    name: str,
    recipe: Path,
    base: Base,
    image: str,
    parent: str,
    parent_target: str,
    packages: tuple[str, ...],
    config: ImageConfig,
    script: str = "",
    mounts: Mapping[Path, str] | None = None,
    needs: tuple[str, ...] = (),
) -> Target:
    """The target of an image: `parent` with packages installed, the recipe's files/ copied, and a script run.

    `recipe` is the recipe's module; `parent` and `image` are names without `overlayd/` and tag. `mounts` are folders
    below the build folder by their place in the container; `needs` the targets that make them.
    """
    here = recipe.parent
    files = here / "files"
    code = [recipe, Path(__file__), here.parent / "bases/dnf.py", *([files] if files.is_dir() else [])]
    lines = dnf.install_script(base, packages) if packages else ""
    lines += _COPY_FILES if files.is_dir() else ""
    lines += script + dnf.clean_script(base)

    def build(step: Step) -> None:
        places = {step.build / source: place for source, place in (mounts or {}).items()}
        if packages:
            places[step.build / base.repository] = dnf.MOUNT
            places[(step.build / base.keys).parent] = dnf.KEYS_MOUNT
        if files.is_dir():
            places[files] = FILES
        step.run_and_commit(base.tag(parent), lines, config, mounts=places)

    return Target(
        name=name,
        build=build,
        inputs={
            **inputs.of_values(packages=packages, config=vars(config), script=script, base=base.name),
            **inputs.of_files(here.parent, code),
        },
        needs=(parent_target, *([base.repository_target] if packages else []), *needs),
        image=base.tag(image),
    )

"""All targets of one base, as a graph: the repository, the images, and the RPM."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from images.base import recipe as base_recipe
from images.bases.base import Base
from images.builder import recipe as builder
from images.docker import recipe as docker
from images.engine import inputs
from images.engine.errors import BuildError
from images.engine.graph import Target
from images.engine.runner import Place, plan
from images.etcd import recipe as etcd
from images.host import recipe as host
from images.probe import recipe as probe

PLACE = Place(root=Path(__file__).resolve().parents[1])

# The images by the name a person asks for.
IMAGES = {
    "base": base_recipe.NAME,
    "builder": builder.NAME,
    "docker": docker.NAME,
    "etcd": etcd.NAME,
    "host": host.NAME,
    "probe": probe.NAME,
}
# `build-all` builds these, and through them everything. The RPM is named although the host image is made of it: in a
# fresh checkout on a machine that has the image, nothing else would ask for the file.
ALL = (host.NAME, etcd.NAME, builder.NAME, probe.TAR_NAME, host.RPM_TARGET)


_BUILDER, _ETCD = "builder", "etcd"


def whole(base: Base) -> tuple[str, ...]:
    """What `build-all` builds on a base: all there is, where it lacks some of it."""
    return tuple(name for name in (*ALL, docker.NAME) if _lacked(base, name) is None) if base.lacks else ALL


def left_out(base: Base, wanted: Iterable[str]) -> str | None:
    """Why some of the wanted targets cannot be had on a base, naming them; None when all can."""
    missing: dict[str, list[str]] = {}
    for name in wanted:
        reason = _lacked(base, name)
        if reason is not None:
            missing.setdefault(reason, []).append(name)
    said = [f"{', '.join(names)} cannot be made on {base.name}: {reason}" for reason, names in missing.items()]
    return "; ".join(said) or None


def _lacked(base: Base, name: str) -> str | None:
    """Why a target cannot be had on a base; None when it can."""
    if name in (builder.NAME, host.NAME) or name.startswith("rpm."):
        return base.lacks.get(_BUILDER)
    return base.lacks.get(_ETCD) if name.startswith(etcd.NAME) else None


def of_images(base: Base) -> dict[str, Target]:
    """The targets of images/ by name. The host image needs a target of rpm/ as well."""
    found = [
        *base.repository_targets(base),
        base_recipe.target(base),
        *(() if _ETCD in base.lacks else etcd.targets(base)),
        docker.target(base),
        probe.target(base),
        probe.tar_target(base),
    ]
    if _BUILDER not in base.lacks:
        found += [builder.target(base), host.target(base)]
    return {target.name: target for target in found}


def of_everything(base: Base) -> dict[str, Target]:
    """The targets of images/ and rpm/ by name. Raises BuildError when rpm/ does not give its part."""
    targets = of_images(base)
    for target in [] if _BUILDER in base.lacks else import_module("rpm.targets").targets(base):
        if target.name in targets:
            raise BuildError(f"two targets are named {target.name}")
        targets[target.name] = target
    given = inputs.given_epoch()
    if given is None:
        return targets
    # Images say when they were made, and files of the checkout have that time.
    common = {"SOURCE_DATE_EPOCH": str(given)}
    return {
        name: target if target.network else dataclasses.replace(target, inputs={**target.inputs, **common})
        for name, target in targets.items()
    }


def fetched(base: Base) -> bool:
    """Whether the packages of a base are here: all that is wanted of its mirrors was fetched."""
    targets = {target.name: target for target in base.repository_targets(base)}
    return not plan(PLACE, targets, [name for name, target in targets.items() if target.network])

"""All targets of one base as a graph: its repository, the images, and the RPM."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from images import recipes
from images.bases.base import Base
from images.bases.product import Product
from images.engine import inputs
from images.engine.errors import BuildError
from images.engine.graph import Target
from images.engine.place import PLACE
from images.engine.runner import plan
from rpm import targets as rpm


def products() -> tuple[Product, ...]:
    """What can be built: the images, and the RPM."""
    return (*recipes.products(), rpm.PRODUCT)


def everything() -> tuple[str, ...]:
    """The targets that build-all asks for on a base that lacks nothing.

    Each image is among them, also where another is made of it: an image that Docker has lost is only given to it again
    where it is asked for.
    """
    return tuple(name for product in products() for name in product.build_all)


def whole(base: Base) -> tuple[str, ...]:
    """The targets that build-all asks for on a base: those of `everything` that the base does not lack."""
    return tuple(name for name in everything() if _lacked(base, name) is None)


def left_out(base: Base, wanted: Iterable[str]) -> str | None:
    """Why some of the wanted targets cannot be had on a base, naming them; None when all can."""
    missing: dict[str, list[str]] = {}
    for name in wanted:
        reason = _lacked(base, name)
        if reason is not None:
            missing.setdefault(reason, []).append(name)
    parts = [f"{', '.join(names)} cannot be made on {base.name}: {reason}" for reason, names in missing.items()]
    return "; ".join(parts) or None


def _lacked(base: Base, name: str) -> str | None:
    """Why a target cannot be had on a base; None when it can."""
    owner = next((product for product in products() if product.owns(name)), None)
    return owner.lacked(base) if owner else None


def of_base(base: Base) -> dict[str, Target]:
    """The targets that can be built on a base, by name. Raises BuildError when two have one name."""
    targets: dict[str, Target] = {}
    made = (target for product in products() if product.lacked(base) is None for target in product.targets(base))
    for target in (*base.repository_targets(base), *made):
        if target.name in targets:
            raise BuildError(f"two targets are named {target.name}")
        targets[target.name] = target
    given = inputs.given_epoch()
    if given is None:
        return targets
    # It is an input: images say that they were made then, and files of the checkout are dated so.
    common = {"SOURCE_DATE_EPOCH": str(given)}
    return {
        name: target if target.network else dataclasses.replace(target, inputs={**target.inputs, **common})
        for name, target in targets.items()
    }


def fetched(base: Base) -> bool:
    """Whether the packages of a base were fetched, all that its images want, so that no mirror is needed."""
    targets = {target.name: target for target in base.repository_targets(base)}
    return not plan(PLACE, targets, [name for name, target in targets.items() if target.network])

"""The images: every folder here that has a module `recipe`. That module tells of its image what others have to know."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from images.bases.product import Product, image_target
from images.engine.errors import BuildError

NAMES = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/recipe.py")))


def get(name: str) -> Product:
    """The image of a name, as its recipe tells it. Raises BuildError for a name that no image has."""
    if name not in NAMES:
        raise BuildError(f"there is no image {name!r}", hint=f"there are: {', '.join(NAMES)}")
    found: Product = import_module(f"images.{name}.recipe").PRODUCT
    if (wanted := image_target(name)) != found.name:
        raise BuildError(f"images/{name}/recipe.py: the name of its PRODUCT is {found.name!r}, not {wanted!r}")
    return found


def products() -> tuple[Product, ...]:
    """All images, by name."""
    return tuple(map(get, NAMES))

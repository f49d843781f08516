"""What can be built on a base: an image, or the RPM. Each tells of itself what the whole has to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from images.bases.base import Base
from images.engine.graph import Target


def image_target(image: str) -> str:
    """The name of the target that makes the image overlayd/`image`: `images.etcd`."""
    return f"images.{image}"


@dataclass(frozen=True, kw_only=True)
class Product:
    """An image or the RPM, as it can be had on every base that has what it needs.

    `name` is that of its main target, or what the names of its targets begin with. `roles` are the roles that a base
    must have packages for (images.bases.base.ROLES). `targets` makes its targets for a base. `build_all` names those of
    them that build-all asks for. `reason` says why a base cannot have it for another reason than its packages;
    `container` is whether it is an image for Docker.
    """

    name: str
    roles: tuple[str, ...]
    targets: Callable[[Base], tuple[Target, ...]]
    build_all: tuple[str, ...] = ()
    reason: Callable[[Base], str | None] = lambda _base: None
    container: bool = True

    def owns(self, target: str) -> bool:
        """Whether a target, by its name, is one of this product's on some base."""
        return target == self.name or target.startswith(f"{self.name}.")

    def lacked(self, base: Base) -> str | None:
        """Why it cannot be had on a base; None when it can."""
        return next((base.lacks[role] for role in self.roles if role in base.lacks), None) or self.reason(base)

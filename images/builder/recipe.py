"""overlayd/builder: the tools that freeze the daemon and make its RPM. It is used without a network."""

from __future__ import annotations

from pathlib import Path

from images import layered_image
from images.bases.base import Base
from images.bases.product import Product, image_target
from images.engine.containers import ImageConfig
from images.engine.graph import Target

CONFIG = ImageConfig(
    description="Makes the RPM of overlayd", command=("/bin/bash",), env={"LC_ALL": "C.UTF-8"}, workdir="/"
)


def _targets(base: Base) -> tuple[Target, ...]:
    image = layered_image.target(
        image="builder",
        recipe=Path(__file__),
        base=base,
        parent="base",
        packages=base.packages["builder"],
        config=CONFIG,
        # The command of the newest Python differs between bases; build-python is the same on all.
        script=f"ln -sf $(command -v {base.python}) /usr/local/bin/build-python\n"
        "build-python -c 'import sys, venv, ensurepip; print(sys.version)'\n"
        "rpmbuild --version\n",
    )
    return (image,)


# The RPM is made in this image. build-all asks for the image too, which an RPM that is built already does not need.
PRODUCT = Product(
    name=image_target("builder"), roles=("builder",), targets=_targets, build_all=(image_target("builder"),)
)

"""overlayd/builder: what freezing the daemon and making its RPM need. Used with no network."""

from __future__ import annotations

from pathlib import Path

from images import scripts
from images.base import recipe as system
from images.bases.base import Base
from images.engine.containers import ImageConfig
from images.engine.graph import Target

NAME = "images.builder"
CONFIG = ImageConfig(
    description="Makes the RPM of overlayd", command=("/bin/bash",), env={"LC_ALL": "C.UTF-8"}, workdir="/"
)


def target(base: Base) -> Target:
    """The target of this image."""
    return scripts.target(
        name=NAME,
        recipe=Path(__file__),
        base=base,
        image="builder",
        parent="base",
        parent_target=system.NAME,
        packages=base.packages["builder"],
        config=CONFIG,
        # The interpreter's command differs between bases; here it has one name.
        script=f"ln -sf $(command -v {base.python}) /usr/local/bin/build-python\n"
        "build-python -c 'import sys, venv, ensurepip; print(sys.version)'\n"
        "rpmbuild --version\n",
    )

"""overlayd/probe: a few programs with their libraries, for containers that test the traffic between hosts."""

from __future__ import annotations

from pathlib import Path

from images.base import recipe as system
from images.bases import dnf
from images.bases.base import Base
from images.bases.product import Product, image_target
from images.engine import sandbox
from images.engine import target as targets
from images.engine.containers import ImageConfig
from images.engine.errors import BuildError
from images.engine.graph import Target
from images.engine.step import Step
from images.probe import licences

NAME = image_target("probe")
COLLECT = Path("images/probe/collect")
TAR_NAME = f"{NAME}.tar"
TAR = Path("images/probe.tar")

PROGRAMS = (
    *(
        "sh",
        "bash",
        "cat",
        "cut",
        "date",
        "dd",
        "echo",
        "env",
        "grep",
        "head",
        "hostname",
        "id",
        "ls",
        "rm",
        "sed",
        "seq",
    ),
    *("sleep", "sort", "tail", "test", "timeout", "touch", "tr", "true", "uname", "wc", "ping", "ip", "ss", "iperf3"),
)
# The port of iperf3, for people who read `docker inspect`; nothing listens there by itself.
CONFIG = ImageConfig(
    description="A few programs that test what crosses an overlay",
    command=("sleep", "infinity"),
    stop_signal="SIGKILL",
    ports=(5201,),
)


def _image(base: Base) -> Target:

    def build(step: Step) -> None:
        full = step.scratch / "full"
        dnf.install_root(step, base, full, base.packages["probe"])
        system.copy_files(step.checkout / COLLECT, full / "collect")
        step.run(sandbox.inside(full, ["sh", "-eu", "/collect/collect.sh", "/small", *PROGRAMS]))
        licences.add(step, base, full, full / "small")
        step.import_root(full / "small", CONFIG)

    return targets.target(
        name=NAME,
        build=build,
        code=[Path(__file__)],
        values={
            **base.installing,
            **{"packages": base.packages["probe"], "programs": PROGRAMS, "config": vars(CONFIG)},
        },
        tools=("dnf", "rpm", "tar"),
        files=(COLLECT,),
        needs=(base.repository_target,),
        image=base.tag("probe"),
    )


def _tar(base: Base) -> Target:
    """The same image as a file, which a Docker without a network loads."""

    def build(step: Step) -> None:
        image = step.layout.image(base.tag("probe"))
        if image is None:
            raise BuildError(
                f"the image {base.tag('probe')} is not in the layout", hint=f"invoke images.build --target {NAME}"
            )
        step.layout.docker_archive(image, step.output(TAR), tags=[image.name])

    return targets.target(
        name=TAR_NAME, build=build, code=[Path(__file__)], values={"base": base.name}, needs=(NAME,), outputs=(TAR,)
    )


PRODUCT = Product(
    name=NAME, roles=("probe",), targets=lambda base: (_image(base), _tar(base)), build_all=(NAME, TAR_NAME)
)

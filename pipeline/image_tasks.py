"""The Invoke collection `images`, and `build-all`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import Task, task

from images import recipes
from images.bases.product import image_target
from images.engine.errors import BaseUnreachable
from images.engine.progress import report
from pipeline import ship_tasks
from pipeline.build import build, resolve

_HELP = {
    "base": "a base of the catalogue (invoke images.list); without it the first whose repositories answer",
    "again": "ask all repositories anew, also when a base is built, and fetch its packages from them",
    "mirror": "where packages come from: URL for the base's main site, NAME=URL for another; may be repeated",
    "force": "build it also when no input changed",
}


def _image(name: str) -> Callable[..., None]:
    def one(
        c: Context,  # noqa: ARG001
        base: str | None = None,
        again: bool = False,
        force: bool = False,
        mirror: Iterable[str] | None = None,
    ) -> None:
        target = image_target(name)
        build([target], base=base, again=again, force=[target] if force else (), mirror=mirror or ())

    what = f"image overlayd/{name}" if recipes.get(name).container else f"disk image build/{name}s/"
    one.__doc__ = f"Build the {what}, and what it is made of."
    return one


@task(
    help={
        **{key: text for key, text in _HELP.items() if key != "force"},
        "dry-run": "print what would be built, in this order, and why; build nothing",
    },
    iterable=["mirror"],
)
def build_all(
    c: Context,  # noqa: ARG001
    base: str | None = None,
    again: bool = False,
    mirror: Iterable[str] | None = None,
    dry_run: bool = False,
) -> None:
    """Build every image and the RPM; what did not change is not built again."""
    if not dry_run:
        build(None, base=base, again=again, mirror=mirror or ())
        return
    from images.engine import runner, why  # noqa: PLC0415  # `invoke --list` needs none of it
    from images.engine.place import PLACE  # noqa: PLC0415

    request = resolve(None, base=base, again=again, mirror=mirror or ())
    todo = runner.plan(PLACE, request.targets, request.wanted, force=request.force)
    for line in why.plan_lines(todo) or ["nothing to do: no input changed"]:
        report(line)


@task(
    help={
        "target": "its name, as a build's output gives it",
        **{key: text for key, text in _HELP.items() if key != "again"},
    },
    iterable=["mirror"],
)
def build_target(
    c: Context,  # noqa: ARG001
    target: str,
    base: str | None = None,
    force: bool = False,
    mirror: Iterable[str] | None = None,
) -> None:
    """Build one target by name, and what it needs."""
    build([target], base=base, force=[target] if force else (), mirror=mirror or ())


@task(
    name="why",
    positional=["name"],
    help={"name": "an image (base, docker, host, …) or a target, as a build's output names it", "base": _HELP["base"]},
)
def why_built(c: Context, name: str, base: str | None = None) -> None:  # noqa: ARG001
    """Name the inputs that changed since an image or another target was built, and since what it needs was."""
    from images.engine import runner, why  # noqa: PLC0415
    from images.engine.place import PLACE  # noqa: PLC0415

    target = image_target(name) if name in recipes.NAMES else name
    request = resolve([target], base=base)
    for line in why.input_lines(runner.plan(PLACE, request.targets, request.wanted), target):
        report(line)


@task(name="list", help={"mirror": "NAME=URL, as for build-all"}, iterable=["mirror"])
def list_images(c: Context, mirror: Iterable[str] | None = None) -> None:  # noqa: ARG001
    """Show the bases and whether they can be built from here, and the images that are built."""
    from images.bases import catalogue, choose  # noqa: PLC0415
    from images.engine import docker_images, dockerd  # noqa: PLC0415
    from images.engine.annotations import LABEL_INPUTS  # noqa: PLC0415
    from images.engine.place import PLACE  # noqa: PLC0415
    from pipeline.targets import fetched  # noqa: PLC0415

    bases = catalogue.bases(mirror or ())
    here = [base.name for base in bases if fetched(base)]
    answers = choose.answers_of(bases, here)
    no_docker = dockerd.unreachable()
    tags = {} if no_docker else docker_images.labelled_images()
    for base in bases:
        answer = answers[base.name]
        report(f"{base.name}: {base.title}; {'can be built' if answer.ok else 'cannot be built here'}: {answer.why}")
        for name in recipes.NAMES:
            if base.tag(name) in tags:
                report(f"  {base.tag(name)}  {tags[base.tag(name)].labels[LABEL_INPUTS][:12]}")
    if no_docker:
        report(f"no dockerd answers ({no_docker}): what images it has is not known")
    with contextlib.suppress(BaseUnreachable):
        choice = choose.by_default(bases, PLACE.build, fetched=here, answers=answers)
        report(f"invoke build-all takes {choice.base.name}: {choice.why}")


namespace = Collection("images")
for _name in recipes.NAMES:
    namespace.add_task(Task(_image(_name), help=_HELP, iterable=["mirror"]), name=_name)
namespace.add_task(list_images, name="list")
namespace.add_task(build_target, name="build")
namespace.add_task(why_built)
for _shipped in (ship_tasks.push, ship_tasks.save, ship_tasks.load):
    namespace.add_task(_shipped)

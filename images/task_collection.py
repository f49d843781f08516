"""The Invoke collection `images`, and `build-all`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import Task, task

from images import reporting
from images.engine.errors import BaseUnreachable, BuildError

if TYPE_CHECKING:
    from images.bases.base import Base
    from images.engine.graph import Target

_HELP = {
    "base": "a base of the catalogue (invoke images.list); without it the first whose repositories answer",
    "again": "ask all repositories anew, also when a base is built, and fetch its packages from them",
    "mirror": "where packages come from: URL for the base's main site, NAME=URL for another; may be repeated",
    "force": "build it also when no input changed",
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What was asked for, made out: a base, its targets, which of them are wanted, and which in any case."""

    base: Base
    targets: Mapping[str, Target]
    wanted: tuple[str, ...]
    force: frozenset[str]


def build(
    wanted: Iterable[str] | None,
    *,
    base: str | None,
    again: bool = False,
    force: Iterable[str] = (),
    mirror: Iterable[str] = (),
) -> str:
    """Build targets by name and say what was done; the name of the base. None is all there is. Raises BuildError."""
    from images.bases import choose  # noqa: PLC0415  # `invoke --list` needs none of it
    from images.engine import runner  # noqa: PLC0415
    from images.targets import PLACE  # noqa: PLC0415

    begin, mirror = time.monotonic(), list(mirror)
    order = made_out(wanted, base=base, again=again, force=force, mirror=mirror)
    if not order.base.lacks:
        choose.remember(PLACE.build, order.base)
    mirrors = [f"--mirror={one}" for one in mirror]
    repeat = [*reporting.program(), "images.build", f"--base={order.base.name}", *mirrors, "--target"]
    made = runner.build(PLACE, order.targets, order.wanted, force=order.force, repeat=repeat)
    took = time.monotonic() - begin
    say(f"{', '.join(made)} built in {took:.0f} s" if made else f"nothing to do: no input changed ({took:.1f} s)")
    return order.base.name


def made_out(
    wanted: Iterable[str] | None,
    *,
    base: str | None,
    again: bool = False,
    force: Iterable[str] = (),
    mirror: Iterable[str] = (),
) -> Order:
    """Choose the base, say which and why, and see to a Docker; nothing is built. Raises BuildError."""
    from images.bases import catalogue, choose  # noqa: PLC0415
    from images.engine import commit, dockerd, preflight  # noqa: PLC0415
    from images.targets import ALL, PLACE, fetched, left_out, of_everything, whole  # noqa: PLC0415

    bases = catalogue.bases(mirror, wanted=base)
    for asked in (entry for entry in bases if entry.name == base):
        if wanted is not None and (missing := left_out(asked, wanted)):
            raise BuildError(
                missing, hint="the RPM of any other base runs there: invoke rpm.build --base …, then yum install it"
            )
    preflight.check()
    dockerd.ensure()
    here = [entry.name for entry in bases if fetched(entry)]
    choice = choose.choose(bases, PLACE.build, wanted=base, fetched=here, again=again)
    say(f"base: {choice.base.name} ({choice.why})")
    for note in choice.base.notes:
        say(f"  {note}")
    if changes := commit.changed(PLACE.root, commit.PARTS):
        more = f" and {len(changes) - 3} more" if changes[3:] else ""
        say(f"  files that are in no commit count too: {', '.join(changes[:3])}{more}")
    if unbootable := choose.unbootable(choice.base):
        say(f"  {unbootable}")
    if wanted is None:
        if missing := left_out(choice.base, ALL):
            say(f"  left out: {missing}")
        wanted = whole(choice.base)
    if again:
        force = [*force, choice.base.repository_targets(choice.base)[0].name]
    return Order(
        base=choice.base,
        targets=of_everything(choice.base),
        wanted=tuple(wanted),
        force=frozenset(force),
    )


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _image(name: str) -> Callable[..., None]:
    def one(
        c: Context,  # noqa: ARG001
        base: str | None = None,
        again: bool = False,
        force: bool = False,
        mirror: Iterable[str] | None = None,
    ) -> None:
        from images.targets import IMAGES  # noqa: PLC0415

        build([IMAGES[name]], base=base, again=again, force=[IMAGES[name]] if force else (), mirror=mirror or ())

    one.__doc__ = f"Build the image overlayd/{name}, and what it is made of."
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
    from images import explain  # noqa: PLC0415
    from images.engine import runner  # noqa: PLC0415
    from images.targets import PLACE  # noqa: PLC0415

    order = made_out(None, base=base, again=again, mirror=mirror or ())
    todo = runner.plan(PLACE, order.targets, order.wanted, force=order.force)
    for line in explain.plan(todo) or ["nothing to do: no input changed"]:
        say(line)


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
    positional=["name"],
    help={"name": "an image (base, docker, host, …) or a target, as a build's output names it", "base": _HELP["base"]},
)
def why(c: Context, name: str, base: str | None = None) -> None:  # noqa: ARG001
    """Name the inputs that changed since an image or another target was built, and since what it needs was."""
    from images import explain  # noqa: PLC0415
    from images.engine import runner  # noqa: PLC0415
    from images.targets import IMAGES, PLACE  # noqa: PLC0415

    target = IMAGES.get(name, name)
    order = made_out([target], base=base)
    for line in explain.why(runner.plan(PLACE, order.targets, order.wanted), target):
        say(line)


@task(name="list", help={"mirror": "as of build-all, with NAME="}, iterable=["mirror"])
def list_images(c: Context, mirror: Iterable[str] | None = None) -> None:  # noqa: ARG001
    """Show the bases and whether they can be built from here, and the images that are built."""
    from images.bases import catalogue, choose  # noqa: PLC0415
    from images.engine import docker_images, dockerd  # noqa: PLC0415
    from images.engine.stamps import LABEL_HASH  # noqa: PLC0415
    from images.targets import IMAGES, PLACE, fetched  # noqa: PLC0415

    bases = catalogue.bases(mirror or ())
    here = [base.name for base in bases if fetched(base)]
    answers = choose.answers_of(bases, here)
    no_docker = dockerd.unreachable()
    tags = {} if no_docker else docker_images.tagged_images(LABEL_HASH)
    for base in bases:
        answer = answers[base.name]
        say(f"{base.name}: {base.title}; {'can be built' if answer.ok else 'cannot be built here'}: {answer.why}")
        for name in IMAGES:
            if base.tag(name) in tags:
                say(f"  {base.tag(name)}  {tags[base.tag(name)].labels[LABEL_HASH][:12]}")
    if no_docker:
        say(f"no dockerd answers ({no_docker}): what images it has is not known")
    with contextlib.suppress(BaseUnreachable):
        choice = choose.by_default(bases, PLACE.build, fetched=here, answers=answers)
        say(f"invoke build-all takes {choice.base.name}: {choice.why}")


namespace = Collection("images")
for _name in ("base", "builder", "docker", "etcd", "host", "probe"):
    namespace.add_task(Task(_image(_name), help=_HELP, iterable=["mirror"]), name=_name)
namespace.add_task(list_images, name="list")
namespace.add_task(build_target, name="build")
namespace.add_task(why)

"""Resolves what a task asks for into a base and targets, and builds them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from images.engine.errors import BuildError
from images.engine.progress import report
from pipeline import reporting

if TYPE_CHECKING:
    from images.bases.base import Base
    from images.engine.graph import Target


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What is to be built: a base, all its targets by name, the names of the wanted ones, and of those to force."""

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
    """Build targets by name and report what was done; the name of the base. None is all there is. Raises BuildError."""
    from images.bases import choose  # noqa: PLC0415  # `invoke --list` needs none of it
    from images.engine import runner  # noqa: PLC0415
    from images.engine.place import PLACE  # noqa: PLC0415

    begin, mirror = time.monotonic(), list(mirror)
    request = resolve(wanted, base=base, again=again, force=force, mirror=mirror)
    # A base whose hosts do not start here is taken only when it is named, as one that lacks an image.
    if not request.base.lacks and choose.unbootable(request.base) is None:
        choose.remember(PLACE.build, request.base)
    mirrors = [f"--mirror={one}" for one in mirror]
    repeat = [*reporting.program(), "images.build", f"--base={request.base.name}", *mirrors, "--target"]
    made = runner.build(PLACE, request.targets, request.wanted, force=request.force, repeat=repeat)
    took = time.monotonic() - begin
    report(f"{', '.join(made)} built in {took:.0f} s" if made else f"nothing to do: no input changed ({took:.1f} s)")
    return request.base.name


def resolve(
    wanted: Iterable[str] | None,
    *,
    base: str | None,
    again: bool = False,
    force: Iterable[str] = (),
    mirror: Iterable[str] = (),
) -> BuildRequest:
    """Choose the base, report which and why, and make sure that a Docker answers; nothing is built. Raises BuildError.

    `wanted` are names of targets, None is all that the base can have. `again` asks the mirrors anew.
    """
    from images.bases import catalogue, choose  # noqa: PLC0415
    from images.engine import commit, dockerd, preflight  # noqa: PLC0415
    from images.engine.place import PLACE  # noqa: PLC0415
    from pipeline import targets  # noqa: PLC0415

    bases = catalogue.bases(mirror, wanted=base)
    for asked in (entry for entry in bases if entry.name == base):
        if wanted is not None and (missing := targets.left_out(asked, wanted)):
            raise BuildError(
                missing, hint="the RPM of any other base runs there: invoke rpm.build --base …, then yum install it"
            )
    preflight.check()
    dockerd.ensure()
    here = [entry.name for entry in bases if targets.fetched(entry)]
    choice = choose.choose(bases, PLACE.build, wanted=base, fetched=here, again=again)
    report(f"base: {choice.base.name} ({choice.why})")
    for note in choice.base.notes:
        report(f"  {note}")
    if changes := commit.changed(PLACE.root, commit.PARTS):
        more = f" and {len(changes) - 3} more" if changes[3:] else ""
        report(f"  files that are in no commit are built too: {', '.join(changes[:3])}{more}")
    if unbootable := choose.unbootable(choice.base):
        report(f"  {unbootable}")
    if wanted is None:
        if missing := targets.left_out(choice.base, targets.everything()):
            report(f"  left out: {missing}")
        wanted = targets.whole(choice.base)
    if again:
        force = [*force, choice.base.repository_targets(choice.base)[0].name]
    return BuildRequest(
        base=choice.base,
        targets=targets.of_base(choice.base),
        wanted=tuple(wanted),
        force=frozenset(force),
    )

"""Targets, and what has to be built of them in which order. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from images.engine import inputs as ins
from images.engine.errors import BadGraph

if TYPE_CHECKING:
    from images.engine.step import Step


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that is built: a function of its inputs and of the targets it needs.

    `inputs` are digests by name (images.engine.inputs). `needs` are names of other targets; their inputs count as
    this one's. What is built is an image (`image` is its tag; the function leaves its id in `step.image_id`), or files
    and folders (`outputs`, below the build folder; the function writes them at `step.output(path)`), or both.
    `build` runs in a thread of its own, at most once at a time; it may raise BuildError.
    """

    name: str
    build: Callable[[Step], None]
    inputs: ins.Inputs
    needs: tuple[str, ...] = ()
    image: str | None = None
    outputs: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Built:
    """What is known of a target's last build: the inputs it had, and whether all that it made is still there."""

    inputs: ins.Inputs
    complete: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a target must be built, and why. `reason` is None for one that is up to date."""

    target: Target
    inputs: ins.Inputs
    reason: str | None


def ordered(targets: Mapping[str, Target], wanted: Iterable[str]) -> list[Target]:
    """The wanted targets and all that they need, each after what it needs. Raises BadGraph.

    The order is the same for the same input, whatever the order of `targets`.
    """
    done: dict[str, Target] = {}
    path: list[str] = []

    def visit(name: str, asked_by: str | None) -> None:
        if name in done:
            return
        if name in path:
            ring = " -> ".join([*path[path.index(name) :], name])
            raise BadGraph(f"targets depend on each other in a ring: {ring}")
        target = targets.get(name)
        if target is None:
            known = ", ".join(sorted(targets))
            where = f"{asked_by} needs {name}" if asked_by else f"asked for {name}"
            raise BadGraph(f"{where}, and there is no such target", hint=f"there are: {known}")
        path.append(name)
        for need in target.needs:
            visit(need, name)
        path.pop()
        done[name] = target

    for name in wanted:
        visit(name, None)
    return list(done.values())


def all_inputs(order: Iterable[Target]) -> dict[str, ins.Inputs]:
    """Every target's inputs, with a digest of each target it needs among them. `order` is as `ordered` gives it."""
    found: dict[str, ins.Inputs] = {}
    for target in order:
        needs = {f"target {need}": ins.fingerprint(found[need]) for need in target.needs}
        found[target.name] = {**target.inputs, **needs}
    return found


def verdicts(
    targets: Mapping[str, Target],
    wanted: Iterable[str],
    built: Callable[[Target], Built | None],
    *,
    force: frozenset[str] = frozenset(),
) -> list[Verdict]:
    """What to do for the wanted targets, each after what it needs. Raises BadGraph.

    What an up-to-date target needs is not looked at: a folder that was only a stage on the way may be gone.
    """
    order = ordered(targets, wanted)
    inputs = all_inputs(order)
    asked = set(wanted)
    found: list[Verdict] = []
    for target in reversed(order):
        if target.name not in asked:
            continue
        last = built(target)
        reason = ins.changed(last.inputs if last else None, inputs[target.name])
        if target.name in force:
            reason = "asked for"
        elif reason is None and last is not None and not last.complete:
            reason = "what it made is gone"
        if reason is not None:
            asked.update(target.needs)
        found.append(Verdict(target=target, inputs=inputs[target.name], reason=reason))
    return found[::-1]

"""Targets, which of them have to be built, and in which order. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from images.engine import inputs as ins
from images.engine.errors import BadGraph


class BuildFunction(Protocol):
    """The function that builds a target, called with its step.

    The step is an images.engine.step.Step. Its type is not named here, as steps are made of targets;
    images.engine.target.target, by which all targets are defined, demands it.
    """

    def __call__(self, step: Any, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that is built: a function of its inputs and of the targets it needs.

    - `inputs` are values by name (images.engine.inputs); `needs` are names of other targets.
    - A target builds an image (`image` is its tag; the function leaves it in `step.made`), or files and folders
      (`outputs`, below the build folder; the function writes them at `step.output(path)`).
    - `facts`, one of the outputs, is a JSON object of strings that says what was found, such as the versions of the
      packages that a mirror had. Targets that need this one have its facts as inputs, in place of its inputs: when it
      fetches anew and finds the same, they are not built again. The fact EPOCH is a time in Unix seconds: the newest
      date that the packages have, which images made of them take for their own.
    - `files` are files and folders, by their path below the checkout, that the function sees (`step.checkout`); each is
      an input (images.engine.target).
    - `network` is set for a target that fetches; no other may need a network. Its outputs should lie below CACHE.
    - `build` runs in a thread of its own, at most once at a time; it may raise BuildError.
    """

    name: str
    build: BuildFunction
    inputs: ins.Inputs
    needs: tuple[str, ...] = ()
    image: str | None = None
    outputs: tuple[Path, ...] = ()
    facts: Path | None = None
    files: tuple[Path, ...] = ()
    network: bool = False


EPOCH = "epoch"
# Below the build folder: for what was fetched. `invoke clean` keeps it.
CACHE = Path("cache")


@dataclass(frozen=True, kw_only=True)
class Built:
    """A target's last build: its inputs, its facts, and whether all its results still exist."""

    inputs: ins.Inputs
    facts: ins.Inputs
    complete: bool


@dataclass(frozen=True, kw_only=True)
class BuildDecision:
    """Whether a target must be built, and why. `reason` is None for one that is up to date.

    `inputs` is None while they are not known, because a target that must be built first will have new facts. Whether
    this one has to be built is then decided after that one was. `before` are the inputs of its last build.
    """

    target: Target
    inputs: ins.Inputs | None
    before: ins.Inputs | None
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


def decisions(
    targets: Mapping[str, Target],
    wanted: Iterable[str],
    built: Callable[[Target], Built | None],
    *,
    force: frozenset[str] = frozenset(),
) -> list[BuildDecision]:
    """What to do for the wanted targets, each after what it needs. Raises BadGraph.

    A target that only up-to-date targets need is left out: its result may be gone.
    """
    order = ordered(targets, wanted)
    last = {target.name: built(target) for target in order}
    inputs = _all_inputs(order, last, force)
    asked = set(wanted)
    found: list[BuildDecision] = []
    for target in reversed(order):
        if target.name not in asked:
            continue
        before, now = last[target.name], inputs[target.name]
        if target.name in force:
            reason: str | None = "asked for"
        elif now is None:
            reason = "depends on a target that is built first"
        else:
            reason = ins.changed(before.inputs if before else None, now)
            if reason is None and before is not None and not before.complete:
                reason = "its result is gone"
        if reason is not None:
            asked.update(target.needs)
        found.append(BuildDecision(target=target, inputs=now, before=before.inputs if before else None, reason=reason))
    return found[::-1]


def epoch(targets: Mapping[str, Target], name: str, built: Callable[[Target], Built | None]) -> int:
    """The newest EPOCH among the facts of all targets that a target needs, in Unix seconds; 0 when there is none."""
    known = [built(target) for target in ordered(targets, [name])[:-1]]
    return max((int(one.facts[EPOCH]) for one in known if one is not None and EPOCH in one.facts), default=0)


def _all_inputs(
    order: Iterable[Target], last: Mapping[str, Built | None], force: frozenset[str]
) -> dict[str, ins.Inputs | None]:
    """Every target's inputs, and for each target that it needs that one's facts, or a digest of its inputs.

    None for a target whose inputs are not known yet.
    """
    found: dict[str, ins.Inputs | None] = {}
    facts: dict[str, ins.Inputs | None] = {}
    for target in order:
        needs: dict[str, str] = {}
        known = True
        for need in target.needs:
            if need in facts:
                known_facts = facts[need]
                known = known and known_facts is not None
                needs.update({f"{need}: {name}": value for name, value in (known_facts or {}).items()})
            else:
                digest = found[need]
                known = known and digest is not None
                needs[f"target {need}"] = ins.fingerprint(digest or {})
        found[target.name] = now = {**target.inputs, **needs} if known else None
        if target.facts is not None:
            before = last[target.name]
            same = before is not None and before.inputs == now and target.name not in force
            facts[target.name] = before.facts if before is not None and same else None
    return found

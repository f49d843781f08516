"""The lines that tell a person what a build would do, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from images.engine.graph import BuildDecision
from images.engine.inputs import differences


def plan_lines(todo: Sequence[BuildDecision]) -> list[str]:
    """A line for each target that would be built, in the order of needs."""
    return [
        f"{decision.target.name}: {decision.reason}" + ("; from the network" if decision.target.network else "")
        for decision in todo
    ]


def input_lines(todo: Sequence[BuildDecision], name: str) -> list[str]:
    """A line for each input that changed since the last build of a target, and of the targets that it needs.

    `todo` is the plan for that target alone; an empty one means that it is up to date.
    """
    if not todo:
        return [f"{name} is up to date: no input changed since it was built"]
    lines = []
    for decision in reversed(todo):
        lines.append(f"{decision.target.name} would be built: {_summary(decision)}")
        lines += [f"  {line}" for line in _inputs(decision)]
    return lines


def _summary(decision: BuildDecision) -> str:
    if decision.before is None:
        return "it was never built"
    if decision.inputs is None:
        return "perhaps: a target that it needs has to be built first"
    changes = differences(decision.before, decision.inputs)
    return f"{len(changes)} of {len(decision.inputs)} inputs changed" if changes else str(decision.reason)


def _inputs(decision: BuildDecision) -> list[str]:
    if decision.before is None:
        return []
    if decision.inputs is None:
        # Its own inputs are known; the facts of the targets that it needs are not.
        known = decision.target.inputs
        return differences({name: decision.before[name] for name in known if name in decision.before}, known)
    return differences(decision.before, decision.inputs)

"""The lines that tell a person what a build would do, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from images.engine.graph import BuildDecision
from images.engine.inputs import differences


def plan_lines(todo: Sequence[BuildDecision]) -> list[str]:
    """A line for each target that would be built, in the order of needs."""
    return [
        f"{verdict.target.name}: {verdict.reason}" + ("; from the network" if verdict.target.network else "")
        for verdict in todo
    ]


def input_lines(todo: Sequence[BuildDecision], name: str) -> list[str]:
    """A line for each input that changed since the last build of a target, and of the targets that it needs.

    `todo` is the plan for that target alone; an empty one means that it is up to date.
    """
    if not todo:
        return [f"{name} is up to date: no input changed since it was built"]
    lines = []
    for verdict in reversed(todo):
        lines.append(f"{verdict.target.name} would be built: {_summary(verdict)}")
        lines += [f"  {line}" for line in _inputs(verdict)]
    return lines


def _summary(verdict: BuildDecision) -> str:
    if verdict.before is None:
        return "it was never built"
    if verdict.inputs is None:
        return "perhaps: a target that it needs has to be built first"
    changes = differences(verdict.before, verdict.inputs)
    return f"{len(changes)} of {len(verdict.inputs)} inputs changed" if changes else str(verdict.reason)


def _inputs(verdict: BuildDecision) -> list[str]:
    if verdict.before is None:
        return []
    if verdict.inputs is None:
        # Its own inputs are known; the facts of the targets that it needs are not.
        known = verdict.target.inputs
        return differences({name: verdict.before[name] for name in known if name in verdict.before}, known)
    return differences(verdict.before, verdict.inputs)

"""Defines targets. What a target lists as its files is both what counts as its inputs and what it is shown.

An input is a plain value, the version of a tool of this machine, a file of the checkout, or code: the module that
builds the target with all modules of the checkout that it imports, and the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from images.engine import inputs
from images.engine.graph import Target
from images.engine.place import ROOT
from images.engine.step import Step

# The engine itself: every target is built by it.
_ENGINE = ROOT / "images/engine/runner.py"


def target(
    *,
    name: str,
    build: Callable[[Step], None],
    code: Iterable[Path],
    values: Mapping[str, object] | None = None,
    tools: Iterable[str] = (),
    files: Iterable[Path] = (),
    needs: tuple[str, ...] = (),
    image: str | None = None,
    outputs: tuple[Path, ...] = (),
    facts: Path | None = None,
    network: bool = False,
) -> Target:
    """A target (images.engine.graph.Target) of this checkout with its inputs.

    `code` are the modules whose functions build it. `files` are the other files and folders of the checkout that it
    uses, by their path below it: the function finds a copy of these, and of nothing else, at `step.checkout`.
    """
    files = tuple(files)
    found: dict[str, str] = {}
    for module in (*code, _ENGINE):
        found |= inputs.of_code(ROOT, module)
    return Target(
        name=name,
        build=build,
        inputs={
            **inputs.of_values(**(values or {})),
            **inputs.of_tools(*tools),
            **found,
            **inputs.of_files(ROOT, [ROOT / path for path in files]),
        },
        needs=needs,
        image=image,
        outputs=outputs,
        facts=facts,
        files=files,
        network=network,
    )

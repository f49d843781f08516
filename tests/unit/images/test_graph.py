"""In which order targets are built, and which are not."""

from __future__ import annotations

import pytest

from images.engine.errors import BadGraph
from images.engine.graph import Built, Target, all_inputs, ordered, verdicts
from images.engine.step import Step


def target(name: str, *needs: str, recipe: str = "1") -> Target:
    def build(_step: Step) -> None:
        raise AssertionError("a graph builds nothing")

    return Target(name=name, build=build, inputs={"recipe": recipe}, needs=needs)


def graph(*targets: Target) -> dict[str, Target]:
    return {found.name: found for found in targets}


CHAIN = graph(target("host", "docker", "rpm"), target("docker", "base"), target("rpm", "base"), target("base"))


def built_of(targets: dict[str, Target]) -> dict[str, Built]:
    inputs = all_inputs(ordered(targets, targets))
    return {name: Built(inputs=inputs[name], complete=True) for name in targets}


def reasons(
    targets: dict[str, Target], built: dict[str, Built], *wanted: str, force: str = ""
) -> dict[str, str | None]:
    found = verdicts(targets, wanted, lambda t: built.get(t.name), force=frozenset(filter(None, [force])))
    return {verdict.target.name: verdict.reason for verdict in found}


def test_each_comes_after_what_it_needs() -> None:
    names = [found.name for found in ordered(CHAIN, ["host"])]
    assert names == ["base", "docker", "rpm", "host"]


def test_only_what_is_wanted_is_looked_at() -> None:
    assert [found.name for found in ordered(CHAIN, ["docker"])] == ["base", "docker"]


def test_a_ring_is_named() -> None:
    with pytest.raises(BadGraph, match="a -> b -> a"):
        ordered(graph(target("a", "b"), target("b", "a")), ["a"])


def test_a_target_that_does_not_exist_is_named_with_who_needs_it() -> None:
    with pytest.raises(BadGraph, match="a needs nowhere"):
        ordered(graph(target("a", "nowhere")), ["a"])


def test_a_change_goes_up_and_is_named() -> None:
    built = built_of(CHAIN)
    changed = {**CHAIN, "base": target("base", recipe="2")}
    assert reasons(changed, built, "host") == {
        "base": "recipe changed",
        "docker": "target base changed",
        "rpm": "target base changed",
        "host": "target docker changed, target rpm changed",
    }


def test_nothing_changed_and_nothing_is_built() -> None:
    assert reasons(CHAIN, built_of(CHAIN), "host") == {"host": None}


def test_a_stage_that_is_gone_is_only_missed_when_somebody_needs_it() -> None:
    built = built_of(CHAIN)
    built["base"] = Built(inputs=built["base"].inputs, complete=False)
    assert reasons(CHAIN, built, "host") == {"host": None}
    del built["docker"]
    assert reasons(CHAIN, built, "docker") == {"base": "what it made is gone", "docker": "never built"}


def test_force_builds_one_target_and_not_what_it_needs() -> None:
    assert reasons(CHAIN, built_of(CHAIN), "docker", force="docker") == {"base": None, "docker": "asked for"}

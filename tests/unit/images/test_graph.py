"""In which order targets are built, and which are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.engine.errors import BadGraph
from images.engine.graph import EPOCH, Built, Target, decisions, epoch, ordered
from images.engine.step import Step


def target(name: str, *needs: str, recipe: str = "1", facts: bool = False) -> Target:
    def build(_step: Step) -> None:
        raise AssertionError("a graph builds nothing")

    place = Path(name)
    return Target(
        name=name,
        build=build,
        inputs={"recipe": recipe},
        needs=needs,
        outputs=(place,) if facts else (),
        facts=place if facts else None,
    )


def graph(*targets: Target) -> dict[str, Target]:
    return {found.name: found for found in targets}


FACTS = {"package bash": "5.1", EPOCH: "1700000000"}
CHAIN = graph(target("host", "docker", "rpm"), target("docker", "base"), target("rpm", "base"), target("base"))


def built_of(targets: dict[str, Target]) -> dict[str, Built]:
    """As if everything had just been built, each target telling the facts of `FACTS`."""
    built: dict[str, Built] = {}
    for one in ordered(targets, targets):
        [*_, decision] = decisions(targets, [one.name], lambda t: built.get(t.name))
        assert decision.inputs is not None
        built[one.name] = Built(inputs=decision.inputs, facts=FACTS if one.facts else {}, complete=True)
    return built


def reasons(
    targets: dict[str, Target], built: dict[str, Built], *wanted: str, force: str = ""
) -> dict[str, str | None]:
    found = decisions(targets, wanted, lambda t: built.get(t.name), force=frozenset(filter(None, [force])))
    return {decision.target.name: decision.reason for decision in found}


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
        "base": "recipe changed: 1 -> 2",
        "docker": "target base changed",
        "rpm": "target base changed",
        "host": "target docker changed, target rpm changed",
    }


def test_nothing_changed_and_nothing_is_built() -> None:
    assert reasons(CHAIN, built_of(CHAIN), "host") == {"host": None}


def test_a_stage_that_is_gone_is_only_missed_when_somebody_needs_it() -> None:
    built = built_of(CHAIN)
    built["base"] = Built(inputs=built["base"].inputs, facts={}, complete=False)
    assert reasons(CHAIN, built, "host") == {"host": None}
    del built["docker"]
    assert reasons(CHAIN, built, "docker") == {"base": "its result is gone", "docker": "never built"}


def test_force_builds_one_target_and_not_what_it_needs() -> None:
    assert reasons(CHAIN, built_of(CHAIN), "docker", force="docker") == {"base": None, "docker": "asked for"}


FETCHED = graph(target("host", "base"), target("base", "mirror"), target("mirror", facts=True))


def test_facts_stand_in_place_of_the_inputs_of_what_tells_them() -> None:
    built = built_of(FETCHED)
    assert built["base"].inputs == {"recipe": "1", "mirror: package bash": "5.1", f"mirror: {EPOCH}": "1700000000"}
    built["mirror"] = Built(
        inputs=built["mirror"].inputs, facts={**FACTS, "package bash": "5.2", "package sed": "4.8"}, complete=True
    )
    assert reasons(FETCHED, built, "host") == {
        "mirror": None,
        "base": "mirror: package bash changed: 5.1 -> 5.2, mirror: package sed is new",
        "host": "target base changed",
    }


def test_what_waits_for_facts_is_seen_when_they_are_told() -> None:
    built = built_of(FETCHED)
    changed = {**FETCHED, "mirror": target("mirror", recipe="2", facts=True)}
    found = decisions(changed, ["host"], lambda t: built.get(t.name))
    assert [(v.target.name, v.inputs is None) for v in found] == [("mirror", False), ("base", True), ("host", True)]
    assert [v.reason for v in found] == ["recipe changed: 1 -> 2", *["depends on a target that is built first"] * 2]
    # It is fetched again, and tells the same: nothing more is to do.
    built["mirror"] = Built(inputs={"recipe": "2"}, facts=FACTS, complete=True)
    assert reasons(changed, built, "host") == {"host": None}


def test_asking_for_what_tells_facts_leaves_open_what_follows() -> None:
    built = built_of(FETCHED)
    found = {v.target.name: v.inputs for v in decisions(FETCHED, ["host"], lambda t: built.get(t.name))}
    assert found["host"] is not None
    forced = decisions(FETCHED, ["host", "mirror"], lambda t: built.get(t.name), force=frozenset({"mirror"}))
    assert {v.target.name: v.inputs is None for v in forced} == {"mirror": False, "base": True, "host": True}


def test_the_time_of_what_is_made_is_that_of_the_newest_it_is_made_of() -> None:
    built = built_of(FETCHED)
    assert epoch(FETCHED, "host", lambda t: built.get(t.name)) == 1700000000
    assert epoch(FETCHED, "mirror", lambda t: built.get(t.name)) == 0

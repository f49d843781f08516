"""What `invoke images.why` and `invoke build-all --dry-run` say."""

from __future__ import annotations

from images.engine import why
from images.engine.graph import BuildDecision, Target
from images.engine.inputs import Inputs


def decision(
    name: str,
    before: Inputs | None,
    now: Inputs | None,
    reason: str,
    *,
    network: bool = False,
    own: Inputs | None = None,
) -> BuildDecision:
    target = Target(name=name, build=lambda _: None, inputs=own or {}, network=network)
    return BuildDecision(target=target, inputs=now, before=before, reason=reason)


def test_a_plan_names_each_step_its_reason_and_the_network() -> None:
    todo = [decision("mirror", None, {}, "never built", network=True), decision("base", {}, {"a": "1"}, "a is new")]
    assert why.plan_lines(todo) == ["mirror: never built; from the network", "base: a is new"]


def test_why_names_every_input_with_both_values_the_wanted_target_first() -> None:
    todo = [
        decision("base", {"tool dnf": "4.14"}, {"tool dnf": "4.18"}, "tool dnf changed"),
        decision("host", {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}, "b changed"),
    ]
    assert why.input_lines(todo, "host") == [
        "host would be built: 3 of 3 inputs changed",
        "  b changed: 2 -> 9",
        "  c is gone",
        "  d is new",
        "base would be built: 1 of 1 inputs changed",
        "  tool dnf changed: 4.14 -> 4.18",
    ]


def test_why_says_what_is_not_known_yet_and_what_is() -> None:
    before = {"recipe": "1", "mirror: package bash": "5.1"}
    todo = [decision("base", before, None, "depends on a target that is built first", own={"recipe": "2"})]
    assert why.input_lines(todo, "base") == [
        "base would be built: perhaps: a target that it needs has to be built first",
        "  recipe changed: 1 -> 2",
    ]


def test_why_of_what_is_up_to_date_was_never_built_or_is_gone() -> None:
    assert why.input_lines([], "base") == ["base is up to date: no input changed since it was built"]
    never = decision("x", None, {"a": "1"}, "never built")
    assert why.input_lines([never], "x") == ["x would be built: it was never built"]
    gone = decision("x", {"a": "1"}, {"a": "1"}, "its result is gone")
    assert why.input_lines([gone], "x") == ["x would be built: its result is gone"]

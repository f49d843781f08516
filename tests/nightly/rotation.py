"""Which of the slow tests a night has: machines and builds from nothing take hours, and a night is to end in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

# A date, as 2026-11-30: the tests of that night alone. Without it, as with `make test-all`, all are run.
VARIABLE = "OVERLAYD_NIGHT"
# By weekday, Monday first: names of files, with `::` and a test or, in brackets, with one value of a fixture. All of
# them once a week. Tests of machines are each in some night; others that are not named here are in every night.
_OF_A_WEEK = (
    ("test_kernels[5.10]", "test_disk", "test_other_suites"),
    (
        *("test_kernels[6.1]", "test_power"),
        "test_random_faults::test_ten_minutes_of_faults_in_a_random_order_break_no_rule",
    ),
    (
        *("test_kernels[6.12]", "test_machine_tasks"),
        "test_newcomer::test_a_newcomers_commands_work_with_what_was_fetched_before",
    ),
    ("test_wire", "test_selinux", "test_reproducible"),
    (
        *("test_underlay_owners[bookworm]", "test_firewalld_of_suites[bookworm]"),
        "test_newcomer::test_a_newcomers_commands_work_with_nothing_fetched_before",
    ),
    ("test_underlay_owners[trixie]", "test_firewalld_of_suites[trixie]", "test_bench"),
    ("test_underlay_owners[testing]", "test_firewalld_of_suites[testing]"),
)
EVERY_NIGHT = frozenset({"test_boot"})
# The fixtures whose values are in brackets.
_FIXTURES = ("kernel", "owned")
# The bases that machines of a suite need, beside the one that every night builds.
_BASES = {"[trixie]": "debian13-rpm", "[testing]": "debian-testing-rpm"}


def of_night(text: str) -> frozenset[str]:
    """What the night of a date has, of what is not in every night. Raises ValueError for what is no date."""
    return EVERY_NIGHT | set(_OF_A_WEEK[date.fromisoformat(text).weekday()])


def of_all_nights() -> frozenset[str]:
    """What some night has."""
    return EVERY_NIGHT.union(*_OF_A_WEEK)


def bases(text: str) -> tuple[str, ...]:
    """The bases that the night of a date needs beside the usual one. Raises ValueError for what is no date."""
    return tuple(base for suite, base in _BASES.items() if any(name.endswith(suite) for name in of_night(text)))


def names(stem: str, function: str, params: Mapping[str, Any]) -> frozenset[str]:
    """What a test may be called here: by the name of its file, its own name, and the values of its fixtures."""
    in_brackets = (f"{stem}[{params[fixture]}]" for fixture in _FIXTURES if fixture in params)
    return frozenset((stem, f"{stem}::{function}", *in_brackets))


def is_in(text: str, called: Iterable[str]) -> bool | None:
    """Whether the night of a date has a test, by what it is called; None where nothing here says so."""
    found = of_all_nights().intersection(called)
    return None if not found else not found.isdisjoint(of_night(text))

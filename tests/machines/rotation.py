"""Which tests of machines a night has: emulated machines take minutes to boot, and all these tests take hours."""

from __future__ import annotations

from datetime import date

# A date, as 2026-11-30: the tests of that night alone. Without it, as with `make test-all`, all are run.
VARIABLE = "OVERLAYD_NIGHT"
# By weekday, Monday first: files of this folder, or one value of a fixture's in brackets. All of them once a week.
_OF_A_WEEK = (
    ("test_kernels[5.10]", "test_disk"),
    ("test_kernels[6.1]", "test_power"),
    ("test_kernels[6.12]", "test_machine_tasks"),
    ("test_wire", "test_selinux"),
    ("test_underlay_owners[bookworm]", "test_firewalld_of_suites[bookworm]"),
    ("test_underlay_owners[trixie]", "test_firewalld_of_suites[trixie]"),
    ("test_underlay_owners[testing]", "test_firewalld_of_suites[testing]"),
)
EVERY_NIGHT = frozenset({"test_boot"})
# The fixtures whose values are in brackets.
FIXTURES = ("kernel", "owned")


def of_night(text: str) -> frozenset[str]:
    """What the night of a date has. Raises ValueError for what is no date."""
    return EVERY_NIGHT | set(_OF_A_WEEK[date.fromisoformat(text).weekday()])


def of_all_nights() -> frozenset[str]:
    """What some night has."""
    return EVERY_NIGHT.union(*_OF_A_WEEK)

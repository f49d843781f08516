"""Every slow test is in some night of the week."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from images.machine.kernels import SUITES
from tests.machines.conftest import OWNED
from tests.nightly import rotation

MONDAY = date(2026, 11, 30)
TESTS = Path(rotation.__file__).parents[1]
OF_A_SUITE = ("test_underlay_owners", "test_firewalld_of_suites")


def test_a_week_has_every_file_kernel_and_suite() -> None:
    week = frozenset[str]().union(*(rotation.of_night(str(MONDAY + timedelta(days=day))) for day in range(7)))
    machines = {path.stem for path in (TESTS / "machines").glob("test_*.py")}
    files = machines - {"test_kernels", *OF_A_SUITE}
    kernels = {f"test_kernels[{version}]" for version in SUITES}
    of_machines = {name for name in week if name.partition("[")[0] in machines}
    assert of_machines == files | kernels | {f"{name}[{suite}]" for name in OF_A_SUITE for suite in OWNED}


def test_what_rotates_beside_machines_is_there() -> None:
    for name in rotation.of_all_nights():
        stem, _, function = name.partition("[")[0].partition("::")
        [file] = TESTS.glob(f"*/{stem}.py")
        assert not function or f"def {function}(" in file.read_text(), name


def test_a_test_that_is_named_is_in_its_night_alone_and_all_others_are_in_every_night() -> None:
    monday, thursday = str(MONDAY), str(MONDAY + timedelta(days=3))
    for called, nights in (
        (rotation.names("test_reproducible", "test_x", {}), (False, True)),
        (rotation.names("test_kernels", "test_x", {"kernel": "5.10"}), (True, False)),
        (rotation.names("test_boot", "test_x", {}), (True, True)),
        (rotation.names("test_packets", "test_x", {"backend": "udp"}), (None, None)),
    ):
        assert (rotation.is_in(monday, called), rotation.is_in(thursday, called)) == nights


def test_a_night_with_machines_of_a_suite_builds_its_base() -> None:
    assert [rotation.bases(str(MONDAY + timedelta(days=day))) for day in (0, 5, 6)] == [
        (),
        ("debian13-rpm",),
        ("debian-testing-rpm",),
    ]


def test_a_night_that_is_no_date_is_refused() -> None:
    with pytest.raises(ValueError, match="yesterday"):
        rotation.of_night("yesterday")

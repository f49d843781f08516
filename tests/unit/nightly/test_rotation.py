"""Every test of machines is in some night of the week."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from images.machine.kernels import SUITES
from tests.machines import rotation
from tests.machines.conftest import OWNED

MONDAY = date(2026, 11, 30)
OF_A_SUITE = ("test_underlay_owners", "test_firewalld_of_suites")


def test_a_week_has_every_file_kernel_and_suite() -> None:
    week = frozenset[str]().union(*(rotation.of_night(str(MONDAY + timedelta(days=day))) for day in range(7)))
    files = {path.stem for path in Path(rotation.__file__).parent.glob("test_*.py")} - {"test_kernels", *OF_A_SUITE}
    kernels = {f"test_kernels[{version}]" for version in SUITES}
    assert week == files | kernels | {f"{name}[{suite}]" for name in OF_A_SUITE for suite in OWNED}


def test_a_night_that_is_no_date_is_refused() -> None:
    with pytest.raises(ValueError, match="yesterday"):
        rotation.of_night("yesterday")

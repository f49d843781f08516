"""The results of several runs of pytest are added up."""

from __future__ import annotations

import re
import time

import pytest

from tests.side_by_side import closing

PASSED = "..\n===================== 250 passed, 3 deselected in 1200.31s (0:20:00) ======================\n"
FAILED = "F\n============ 1 failed, 700 passed, 1 skipped, 2 errors in 900.10s (0:15:00) ============\n"


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ((PASSED, PASSED), "500 passed, 3 deselected in"),
        ((PASSED, FAILED), "1 failed, 950 passed, 1 skipped, 3 deselected, 2 errors in"),
        # A run that was killed prints no summary.
        ((PASSED, "..\n"), "250 passed, 3 deselected, 1 error in"),
        (("", ""), "2 errors in"),
        # One that got none of the tests.
        ((PASSED, "=== 3 deselected in 1.20s ===\n", "=== no tests ran in 0.1s ===\n"), "250 passed, 3 deselected in"),
    ],
)
def test_the_counts_are_added_in_pytests_own_order(outputs: tuple[str, ...], words: str) -> None:
    line = closing(outputs, time.monotonic())
    assert f" {words} " in line
    assert re.fullmatch(r"=+ .* in [\d.]+s =+", line)


def test_what_a_test_prints_is_no_closing_line() -> None:
    assert "250 passed" in closing([f"=== 9 passed in 1.0s ===\n{PASSED}"], time.monotonic())

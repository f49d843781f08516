"""Cells stand below each other, and nothing is padded that no cell follows."""

from __future__ import annotations

from overlayd.lib.tables import columns


def test_cells_stand_below_each_other() -> None:
    assert list(columns([("NAME", "STATE"), ("a", "a rather long state"), ("longer", "ok")])) == [
        "NAME    STATE",
        "a       a rather long state",
        "longer  ok",
    ]


def test_a_row_may_end_early_and_widens_no_column() -> None:
    assert list(columns([("a", "b", "c"), ("one long line",), ("xx", "", "z")])) == [
        "a   b  c",
        "one long line",
        "xx     z",
    ]


def test_no_rows_are_no_lines() -> None:
    assert list(columns([])) == []

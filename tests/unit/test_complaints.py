"""Every complaint in COMPLAINTS.md and every promise in SECURITY.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGES = (TESTS / "COMPLAINTS.md", TESTS.parent / "SECURITY.md")
ROWS = [line for page in PAGES for line in page.read_text().splitlines() if re.match(r"\| (?!-)", line)]
# Heads, and rows of tables without a column of tests, are not claims.
CLAIMS = [row for row in ROWS if len(row.split("|")) == 5 and not row.endswith("| test |")]


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", CLAIMS, ids=lambda row: row.split("|")[1].strip())
def test_every_row_names_tests_that_exist(row: str) -> None:
    named = re.findall(r"`([a-z_/0-9]+\.py)::(\w+)`", row.rsplit("|", 2)[1])
    assert named, row
    for path, test in named:
        assert (TESTS / path).is_file(), path
        assert test in functions(TESTS / path), test

"""docs/decisions: every record is in the index, has its three parts, is short, and names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/decisions"
INDEX = FOLDER / "README.md"
RECORDS = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
PARTS = ("Decided", "Instead of", "Why")
LINES_AT_MOST = 14
_ENTRY = re.compile(r"- \[(\d{4})\]\((\d{4}-[a-z0-9-]+\.md)\) (.+)")
_CODE = re.compile(r"`([^`\s]+)`")


def files_named(text: str) -> list[str]:
    """Words in backticks that look like a file or folder of this checkout, as a path from its top level."""
    top = {path.name for path in ROOT.iterdir() if path.name != "build"}
    found = [word for word in _CODE.findall(text) if word.endswith(".py") or word.partition("/")[0] in top]
    # NAME and NNNN are placeholders.
    return [word for word in found if "NAME" not in word and "NNNN" not in word]


def test_the_index_lists_every_record_once_by_number_and_title() -> None:
    listed = [match.groups() for line in INDEX.read_text().splitlines() if (match := _ENTRY.fullmatch(line))]
    titles = [path.read_text().splitlines()[0].removeprefix("# ") for path in RECORDS]
    found = [(path.name[:4], path.name, title) for path, title in zip(RECORDS, titles, strict=True)]
    assert sorted(listed) == found


def test_numbers_are_without_gaps() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_a_title_and_three_parts_and_is_short(record: Path) -> None:
    lines = [line for line in record.read_text().splitlines() if line]
    assert lines[0].startswith("# ")
    assert re.findall(r"^\*\*([^*]+)\*\*: \S", "\n".join(lines), re.MULTILINE) == list(PARTS)
    assert len(lines) - 1 <= LINES_AT_MOST


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_files_that_a_record_names_exist(record: Path) -> None:
    missing = [name for name in files_named(record.read_text()) if not (ROOT / name).exists()]
    assert not missing

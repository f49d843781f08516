"""ARCHITECTURE.md and CONTRIBUTING.md are short, describe the whole tree, and name only files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_decisions import files_named
from tests.unit.test_tree import DAEMON, ROOT, imports, tracked

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
WORDS_AT_MOST = {ARCHITECTURE: 1500, CONTRIBUTING: 1600}
# A row of a table whose first cell names folders or files: | `one/`, `two.py` | what it does |
_ROW = re.compile(r"^\| (`[^|]+`) \|", re.MULTILINE)
_NAME = re.compile(r"`([^`]+)`")


def first_cells(after: str) -> list[str]:
    """Words in backticks in the first column of ARCHITECTURE.md's first table after a text."""
    behind = ARCHITECTURE.read_text().partition(after)[2]
    table = behind[behind.index("\n|") :].lstrip().partition("\n\n")[0]
    return [name for cell in _ROW.findall(table) for name in _NAME.findall(cell)]


def folders(below: Path) -> set[str]:
    """The folders that contain files of git, as `name/`."""
    inside = [path.relative_to(below).parts for path in tracked() if path.is_relative_to(below)]
    return {f"{parts[0]}/" for parts in inside if len(parts) > 1 and not parts[0].startswith(".")}


@pytest.mark.parametrize("page", WORDS_AT_MOST, ids=lambda page: page.name)
def test_a_page_is_no_longer_than_a_reader_will_read(page: Path) -> None:
    assert len(page.read_text().split()) <= WORDS_AT_MOST[page]


@pytest.mark.parametrize("page", WORDS_AT_MOST, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    missing = [
        name
        for name in files_named(page.read_text())
        # Modules of the daemon are named by their path in it.
        if not (ROOT / name).exists() and not (DAEMON / name).exists()
    ]
    assert not missing


def test_every_folder_of_the_top_level_is_in_the_tree_and_no_other() -> None:
    named = {name for name in first_cells("## The tree") if name.endswith("/")}
    assert named == folders(ROOT)


def test_every_room_of_the_daemon_is_in_the_table_and_no_other() -> None:
    assert set(first_cells("The rooms of `daemon/overlayd/`")) == folders(DAEMON)


def test_a_room_imports_only_rooms_that_stand_above_it_in_the_table() -> None:
    order = [name.rstrip("/") for name in first_cells("The rooms of `daemon/overlayd/`")]
    wrong = set()
    for path in DAEMON.rglob("*.py"):
        room, file = path.relative_to(DAEMON).parts[0], str(path.relative_to(DAEMON))
        if room in order:
            above = order[: order.index(room) + 1]
            used = {name.split(".")[1] for name in imports(path) if name.startswith("overlayd.")} & set(order)
            wrong |= {(file, one) for one in used if one not in above}
    assert not wrong

"""Nights are kept as small JSON files; the newest 60 stay, and what is none of ours is left out by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.nightly import runs
from tests.unit.nightly import made


def test_a_run_is_read_as_it_was_kept(tmp_path: Path) -> None:
    night = made.older(3, "tests/a.py::test_b", complete=False)
    path = runs.keep(tmp_path, night)
    assert path.name == "2026-11-27T021700Z.json"
    assert runs.read(tmp_path) == ([night], [])
    assert runs.read(tmp_path / "nowhere") == ([], [])


def test_the_newest_sixty_stay_and_other_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "2020.json").write_text("{}")
    for number in range(65, 0, -1):
        runs.keep(tmp_path, made.older(number))
    found, problems = runs.read(tmp_path)
    assert [one.commit for one in found] == [f"{number:012x}" for number in range(60, 0, -1)]
    assert [line.split()[0] for line in problems] == ["2020.json"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_only_runs_before_a_time_are_read(tmp_path: Path) -> None:
    nights = [made.older(number) for number in (3, 2, 1)]
    for one in nights:
        runs.keep(tmp_path, one)
    assert runs.read(tmp_path, before=nights[2].when)[0] == nights[:2]


GOOD = json.loads(runs.as_json(made.older(1)))
BAD = {
    "half": json.dumps(GOOD)[:200],
    "empty": "",
    "a list": "[]",
    "foreign": '{"name": "package", "scripts": {}}',
    "of a later version": json.dumps(GOOD | {"version": 99}),
    "without a time zone": json.dumps(GOOD | {"when": "2026-11-29T02:17:00"}),
    "without a field": json.dumps({key: value for key, value in GOOD.items() if key != "counts"}),
    "with another field": json.dumps(GOOD | {"more": 1}),
    "text for a number": json.dumps(GOOD | {"times_s": {"a": "<script>"}}),
    "null for a number": json.dumps(GOOD | {"ratios": {"a": {"median": None, "lowest": 1, "highest": 1}}}),
    "NaN": json.dumps(GOOD | {"parts_s": {"a": float("nan")}}),
    "text for a flag": json.dumps(GOOD | {"well": "yes"}),
    "a list for an object": json.dumps(GOOD | {"not_passed": ["a"]}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_no_run_is_left_out_with_its_name(tmp_path: Path, text: str) -> None:
    runs.keep(tmp_path, made.older(2))
    (tmp_path / "2026-11-29T021700Z.json").write_text(text)
    found, (problem,) = runs.read(tmp_path)
    assert len(found) == 1
    assert problem.startswith("2026-11-29T021700Z.json was left out: ")


def test_bytes_that_are_no_text_and_folders_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.json").mkdir()
    (tmp_path / "c.json").write_text(" " * 5_000_000)
    found, problems = runs.read(tmp_path)
    assert found == []
    assert [line.split()[0] for line in problems] == ["a.json", "b.json", "c.json"]

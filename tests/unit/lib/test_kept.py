"""What is kept is read again where it may be another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlayd.lib.files import KeptFile
from overlayd.lib.kept import Kept, identities, identity


def test_it_is_read_once_until_what_it_depends_on_is_another_or_the_time_is_over() -> None:
    now, state, reads = 0.0, "a", list[float]()

    def read() -> int:
        reads.append(now)
        return len(reads)

    kept = Kept(read, lambda: state, rest_s=30, clock=lambda: now)
    assert [kept.get(), kept.get()] == [1, 1]
    state = "b"
    assert [kept.get(), kept.get()] == [2, 2]
    now = 29.0
    assert kept.get() == 2
    now = 30.0
    assert kept.get() == 3


def test_a_change_during_the_read_is_seen_the_next_time() -> None:
    state = 0

    def read() -> int:
        nonlocal state
        found = state
        state = 1
        return found

    kept = Kept(read, lambda: state, rest_s=30, clock=lambda: 0.0)
    assert [kept.get(), kept.get()] == [0, 1]


def test_a_read_that_fails_is_done_again() -> None:
    failing = True

    def read() -> int:
        if failing:
            raise OSError("no")
        return 1

    kept = Kept(read, lambda: None, rest_s=30, clock=lambda: 0.0)
    with pytest.raises(OSError, match="no"):
        kept.get()
    failing = False
    assert kept.get() == 1


@pytest.mark.parametrize("change", ["content", "same size", "replaced", "gone", "mode"])
def test_every_change_of_a_file_gives_it_another_identity(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    os.utime(path, (1, 1))
    before = identity(path)
    assert before is not None
    match change:
        case "content":
            path.write_text("two, and longer")
        case "same size":
            path.write_text("two")
            # Even where somebody sets the time back: the time of the change (ctime) cannot be set.
            os.utime(path, (1, 1))
        case "replaced":
            (tmp_path / "new").write_text("one")
            (tmp_path / "new").replace(path)
        case "gone":
            path.unlink()
        case "mode":
            path.chmod(0o600)
    assert identity(path) != before


def test_a_file_that_comes_changes_its_folder(tmp_path: Path) -> None:
    before = identities([str(tmp_path), str(tmp_path / "no")])
    assert before[1] is None
    (tmp_path / "new").touch()
    assert identities([str(tmp_path), str(tmp_path / "no")])[0] != before[0]


@pytest.mark.parametrize("change", ["other text", "same size", "gone"])
def test_a_kept_file_is_written_again_whatever_somebody_does_to_it(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    kept = KeptFile(path)
    for _ in range(3):
        kept.write("text\n")
    match change:
        case "other text":
            path.write_text("something else\n")
        case "same size":
            path.write_text("TEXT\n")
        case "gone":
            path.unlink()
    kept.write("text\n")
    assert path.read_text() == "text\n"


def test_a_kept_file_follows_its_text(tmp_path: Path) -> None:
    kept = KeptFile(tmp_path / "file")
    for text in ("a", "a", "a", "b", "b", "a"):
        kept.write(text)
        assert (tmp_path / "file").read_text() == text

"""Which commit a checkout is, however it was got: real git, clones and tarballs of a small repository."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from images.engine import commit
from images.engine.commit import Commit
from images.engine.errors import BuildError
from rpm import source

TIME = 1_790_000_000
ROOT = Path(__file__).parents[3]
NOBODY = 65534


def git(folder: Path, *words: str | Path, time: int = TIME) -> str:
    """git as nobody in particular, at a time."""
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_COMMITTER_DATE": f"{time} +0000"}
    done = subprocess.run(["git", *who, *words], cwd=folder, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits, of which the second does not touch the first one's file."""
    place = tmp_path / "repository"
    for folder in ("daemon", "images", "pipeline", "rpm", "requirements"):
        (place / folder).mkdir(parents=True)
    (place / "LICENSE").write_text("free\n")
    (place / "requirements/freeze.txt").write_text("")
    (place / "daemon/file").write_text("one\n")
    for name in (".gitattributes", ".git_archival.txt"):
        (place / name).write_bytes((ROOT / name).read_bytes())
    git(place, "init", "--quiet")
    for number, time in enumerate((TIME - 1000, TIME)):
        (place / f"file{number}").write_text(f"{number}\n")
        git(place, "add", "--all")
        git(place, "commit", "--quiet", "--message", f"{number}", time=time)
    return place


def unpacked(repository: Path, to: Path) -> Path:
    """A tarball of the commit, unpacked."""
    git(repository, "archive", "--output", to.with_suffix(".tar"), "HEAD")
    with tarfile.open(to.with_suffix(".tar")) as tar:
        for member in tar:
            tar.extract(member, to)
    return to


def test_every_way_to_get_a_commit_tells_the_same(repository: Path, tmp_path: Path) -> None:
    wanted = Commit(id=git(repository, "rev-parse", "HEAD"), time=TIME)
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", "shallow")
    git(tmp_path, "clone", "--quiet", repository, "clone")
    git(tmp_path / "clone", "worktree", "add", "--quiet", "--detach", tmp_path / "tree")
    ways = [
        repository,
        *(tmp_path / name for name in ("shallow", "clone", "tree")),
        unpacked(repository, tmp_path / "x"),
    ]
    found = {way.name: (commit.of(way), tuple(commit.changed(way)), source.release(way)) for way in ways}
    assert set(found.values()) == {(wanted, (), f"0.20260921141320.g{wanted.id[:8]}")}, found


def test_a_tarball_inside_another_repository_is_itself(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "around")
    (tmp_path / "around/f").write_text("")
    git(tmp_path / "around", "add", "f")
    git(tmp_path / "around", "commit", "--quiet", "--message", "another")
    assert commit.of(unpacked(repository, tmp_path / "around/x")) == commit.of(repository)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to another user")
def test_another_users_checkout_is_read(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = commit.of(repository)
    for path in (repository, *repository.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    alone = {"PATH": os.environ["PATH"]}
    refused = subprocess.run(["git", "log"], cwd=repository, env=alone, capture_output=True, check=False)
    assert refused.returncode != 0, "git alone would read it"
    # Nor do variables lead elsewhere.
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert commit.of(repository) == wanted
    assert not commit.changed(repository)


def test_what_nothing_tells_is_refused_with_the_reason(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"which commit .*/plain is.*there is no .*/plain/\.git") as caught:
        commit.of(tmp_path / "plain")
    assert caught.value.hint is not None
    assert "git archive" in caught.value.hint
    # Copied without git's data, the mark is as it is in the repository.
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/.git_archival.txt").write_bytes((repository / ".git_archival.txt").read_bytes())
    with pytest.raises(BuildError, match="which commit"):
        commit.of(tmp_path / "copy")
    (tmp_path / "empty").mkdir()
    git(tmp_path, "init", "--quiet", "empty")
    with pytest.raises(BuildError, match=r"git says: .*HEAD"):
        commit.of(tmp_path / "empty")


def compared(one: str, two: str) -> int:
    """As rpm orders releases: -1, 0, 1."""
    said = subprocess.run(
        ["rpm", "--eval", f'%{{lua: print(rpm.vercmp("{one}", "{two}"))}}'], check=True, capture_output=True, text=True
    )
    return int(said.stdout)


def test_a_later_commits_release_is_newer_and_a_numbered_one_newer_than_what_led_to_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = source.release(repository)
    (repository / "daemon/file").write_text("two\n")
    dirty = source.release(repository)
    assert dirty.startswith(f"{first}.dirty")
    assert compared(first, dirty) == -1
    (repository / "daemon/file").write_text("three\n")
    assert source.release(repository) not in (first, dirty)
    git(repository, "commit", "--quiet", "--all", "--message", "later", time=TIME + 1)
    later = source.release(repository)
    assert compared(dirty, later) == -1
    assert compared(first, later) == -1
    # What is not in the RPM leaves it as it is.
    (repository / "file0").write_text("changed\n")
    assert source.release(repository) == later
    # Whatever the user's git leaves out, or shows in another way.
    (repository / "rpm/x~").write_text("")
    for name, value in {"core.excludesFile": str(tmp_path / "excludes"), "log.showSignature": "true"}.items():
        git(repository, "config", name, value)
    (tmp_path / "excludes").write_text("*~\n")
    assert source.release(repository).startswith(f"{later}.dirty")
    (repository / "rpm/x~").unlink()
    (repository / "daemon/file").write_text("four\n")
    monkeypatch.setenv(source.NUMBER, "1")
    assert compared(source.release(repository), "1") == -1, "no release is what is in no commit"
    git(repository, "checkout", "--quiet", "daemon")
    assert source.release(repository) == "1"
    assert compared(later, "1") == -1
    assert compared("1", "2.el9") == -1


@pytest.mark.parametrize("number", ["0", "0.5", "1-2", "one", "1..2", "1 2", "01"])
def test_a_number_that_is_none_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setenv(source.NUMBER, number)
    with pytest.raises(BuildError, match=f"{source.NUMBER} is {number!r}"):
        source.release(repository)


def test_the_time_is_the_commits_or_given(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source.epoch(repository) == TIME
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert source.epoch(repository) == 1234567890
    assert source.release(repository).startswith("0.20260921141320.g"), "the release is the commit's all the same"

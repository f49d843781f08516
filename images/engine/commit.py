"""Which commit the checkout is of, and its time: from git, or from what `git archive` wrote into a tarball.

A clone of any depth and a tarball of the same commit give the same answer, whoever owns them. Without git and without
that file it is an error: releases and times of what is built come from the commit.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images.engine.errors import BuildError

# `git archive` fills it in (gitattributes(5), export-subst), and so do the sites that offer tarballs of commits.
MARK = Path(".git_archival.txt")
# What images and the RPM are made of, and the code that makes them.
PARTS = tuple(map(Path, ("daemon", "images", "pipeline", "rpm", "requirements/freeze.txt", "LICENSE")))
_MARKED = re.compile(r"^node: (?P<id>[0-9a-f]{40,64})$.*^time: (?P<time>\d+)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit by its whole name in hexadecimal, and its time (the committer's) in Unix seconds."""

    id: str
    time: int


def of(root: Path) -> Commit:
    """The commit of a folder that is a checkout or an unpacked tarball. Raises BuildError for any other folder."""
    problem = f"there is no {root / '.git'}"
    # Without this check git would look at a repository above an unpacked tarball, which does not know these files.
    if (root / ".git").exists():
        done = _git(root, ["log", "-1", "--format=%H %ct", "HEAD"])
        if done.returncode == 0:
            name, _, time = done.stdout.strip().partition(" ")
            return Commit(id=name, time=int(time))
        problem = f"git says: {done.stderr.strip()}"
    marked = _MARKED.search((root / MARK).read_text()) if (root / MARK).is_file() else None
    if marked is None:
        raise BuildError(
            f"nothing tells which commit {root} is, and what is built has its time and name: {problem}",
            hint=f"clone it with git, or unpack a tarball made by `git archive`, which has them in {MARK}",
        )
    return Commit(id=marked["id"], time=int(marked["time"]))


def changed(root: Path, paths: Sequence[Path] = ()) -> list[str]:
    """The files that are not as the commit has them, as git names them; with `paths` only those at and below these.

    In a tarball no change is found. Raises BuildError.
    """
    if not (root / ".git").exists():
        return []
    done = _git(root, ["status", "--porcelain", "--untracked-files=all", "--", *map(str, paths)])
    if done.returncode != 0:
        raise BuildError(f"git cannot tell what changed in {root}: {done.stderr.strip()}", hint="is git installed?")
    return [line[3:] for line in done.stdout.splitlines()]


def _git(root: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run git, which writes nothing, in a checkout that may be another user's, whatever variables name another one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # A build runs the code of the checkout, so git may read it too (git-config(1), safe.directory). It must not start
    # a file system monitor that the checkout names.
    trust = [f"safe.directory={root}", "core.fsmonitor=false"]
    # The user's own settings of what git shows and ignores must not change the answer.
    plain = ["log.showSignature=false", "core.quotePath=true", "core.excludesFile=", "status.renames=false"]
    settings = [word for setting in (*trust, *plain) for word in ("-c", setting)]
    try:
        return subprocess.run(
            ["git", "--no-optional-locks", *settings, *words],
            cwd=root,
            env={**kept, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return subprocess.CompletedProcess(["git"], 127, "", f"git cannot be started: {error.strerror}")

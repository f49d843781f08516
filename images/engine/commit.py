"""Which commit the checkout is, and its time: from git, or from what `git archive` wrote into a tarball.

A clone of any depth, by anybody, and a tarball of the same commit tell the same. Where neither git nor a tarball's mark
tells, that is an error: what is built would not say what it is.
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
# What images and RPM are made of, and what makes them.
PARTS = tuple(map(Path, ("daemon", "images", "pipeline", "rpm", "requirements/freeze.txt", "LICENSE")))
_MARKED = re.compile(r"^node: (?P<id>[0-9a-f]{40,64})$.*^time: (?P<time>\d+)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit by its whole name in hexadecimal, and its time (the committer's) in Unix seconds."""

    id: str
    time: int


def of(root: Path) -> Commit:
    """The commit that a folder is a checkout, or an unpacked tarball, of. Raises BuildError where nothing tells."""
    problem = f"there is no {root / '.git'}"
    # Not a repository around an unpacked tarball: it knows nothing of these files.
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
    """The files (of all, or of those at and below `paths`) that are not as the commit has them, as git names them.

    A tarball is taken as it is. Raises BuildError.
    """
    if not (root / ".git").exists():
        return []
    done = _git(root, ["status", "--porcelain", "--untracked-files=all", "--", *map(str, paths)])
    if done.returncode != 0:
        raise BuildError(f"git cannot tell what changed in {root}: {done.stderr.strip()}", hint="is git installed?")
    return [line[3:] for line in done.stdout.splitlines()]


def _git(root: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """git in a checkout that may be another user's, whatever variables point it elsewhere; nothing is written."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Whoever builds a checkout runs its code: that git may read it too is a smaller thing (git-config(1),
    # safe.directory). A file system monitor would be one more program of the checkout's.
    trust = [f"safe.directory={root}", "core.fsmonitor=false"]
    # The user's own settings, of what git shows and of what it leaves out, are for the user.
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

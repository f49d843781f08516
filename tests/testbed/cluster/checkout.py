"""A second checkout beside this one, for tests that build elsewhere: cloned, committed to, given what is built here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.testbed.cluster.create import ROOT


def checkout(to: Path, *options: str) -> None:
    """A clone of the checkout as it is now, committed or not; `options` are git clone's."""
    subprocess.run(["git", "clone", "--quiet", *options, f"file://{ROOT}", to], check=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        (to / name).unlink(missing_ok=True)
        # A link may lead to where it is used, not to anything here.
        if os.path.lexists(ROOT / name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name, follow_symlinks=False)
            if not (to / name).is_symlink():
                shutil.copymode(ROOT / name, to / name)


def tarball(to: Path) -> None:
    """The checkout's commit as in a downloaded tarball: without git."""
    to.mkdir(parents=True)
    subprocess.run(f"git archive HEAD | tar --extract --directory='{to}'", shell=True, cwd=ROOT, check=True)


def is_dirty() -> bool:
    """Whether the checkout has changes that are in no commit."""
    done = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, check=True, capture_output=True, text=True)
    return bool(done.stdout.strip())


def commit(root: Path, message: str, *paths: Path) -> None:
    """Commit files of a checkout, by an author of the tests' own, with the time of now."""
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "add", "--all", *paths], cwd=root, check=True)
    subprocess.run(["git", *who, "commit", "--quiet", "--message", message], cwd=root, check=True)


def give_what_is_built(to: Path) -> None:
    """Let a second checkout begin with what is built in this one. Images and packages are hard links: read only."""
    build = ROOT / "build"
    for path in ("oci/blobs", "cache/bases", "cache/stamps", "oci", "stamps", "images", "rpm", "keys", "base.json"):
        place = to / "build" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        # What is replaced by a rename, or as a folder, can be shared; cp takes device nodes for what they are.
        how = "--link" if path in ("oci/blobs", "cache/bases") else "--no-clobber"
        subprocess.run(["cp", "--archive", how, build / path, place.parent], check=True)
    for wheels in (build / "cache").glob("wheelhouse-*"):
        subprocess.run(["cp", "--archive", "--link", wheels, to / "build/cache"], check=True)

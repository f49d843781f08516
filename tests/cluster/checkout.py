"""A second checkout of this one, for what builds in another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster.create import ROOT


def checkout(to: Path) -> None:
    """A clone of the checkout as it is now, committed or not."""
    subprocess.run(["git", "clone", "--quiet", ROOT, to], check=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        (to / name).unlink(missing_ok=True)
        # A link may lead to where it is used, not to anything here.
        if os.path.lexists(ROOT / name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name, follow_symlinks=False)
            if not (to / name).is_symlink():
                shutil.copymode(ROOT / name, to / name)

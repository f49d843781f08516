"""What would make a build fail later and in other words, said before anything is begun: by requirements/check.

`make` runs that script before there is any Python of ours; a task that is called without make asks it here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from images.engine.errors import BuildError
from images.engine.place import ROOT

SCRIPT = "requirements/check"


class Unfit(BuildError):
    """This machine, its user, or the place of the checkout will not do."""


def check(root: Path = ROOT) -> None:
    """See that builds of the checkout at `root`, this one, can begin, in 0.1 s. Raises Unfit with all that is wrong."""
    done = subprocess.run(
        ["sh", root / SCRIPT, "run"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        # A path may be in no encoding at all, and a terminal's may not have what is in it.
        raise Unfit(done.stderr.decode("ascii", "backslashreplace").strip().removeprefix("error: "))

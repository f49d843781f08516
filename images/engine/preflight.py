"""Runs requirements/check: it names at once what would make a build fail later, and less clearly.

`make` runs that script before .venv exists. A task that is called without make runs it from here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from images.engine.errors import BuildError
from images.engine.place import ROOT

SCRIPT = "requirements/check"


class Unfit(BuildError):
    """Nothing can be built on this machine, by this user, or in a checkout at this place."""


def check(root: Path = ROOT) -> None:
    """Check, in 0.1 s, that builds of the checkout at `root` can begin. Raises Unfit, which names all that is wrong."""
    done = subprocess.run(
        ["sh", root / SCRIPT, "run"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        # The message may name a path that is in no encoding, or has letters that the terminal cannot show.
        raise Unfit(done.stderr.decode("ascii", "backslashreplace").strip().removeprefix("error: "))

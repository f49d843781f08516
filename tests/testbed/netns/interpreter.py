"""A Python that also they can run who may not look into root's home, where this one may lie (pyenv)."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from tests.testbed.netns.lab import SOURCES

_IN_A_HOME = Path(sys.base_prefix).parts[1:2] in (("root",), ("home",))


def for_everybody() -> list[str]:
    """The words that start it, with the daemon's sources and what they need: the system's own, of this version."""
    if not _IN_A_HOME:
        return [sys.executable]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return ["env", f"PYTHONPATH={SOURCES}:{sysconfig.get_path('purelib')}", f"/usr/bin/python{version}"]

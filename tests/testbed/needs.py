"""What a test needs of the machine: without it the test is skipped, and says what is missing."""

from __future__ import annotations

import shutil

import pytest


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where one of these programs is not there, as on a machine on which only `make check` ran."""
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not on this machine: {', '.join(missing)}")

"""Options of tasks that a user gets wrong are told in one message."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["bench", "--repeat", "x"], 1, "'x' was given where a number is wanted"),
        (["bench", "--repeat", "0"], 1, "'0' was given where a number is wanted"),
        (["bench", "--seconds=-1"], 1, "'-1' was given where a number is wanted"),
        pytest.param(
            ["bench", "--backends", "vxlan,nothing"],
            2,
            "Backend Type is 'nothing'",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is told that first"),
        ),
        (["bench", "--nothing"], 1, "No idea what '--nothing' is!"),
        (["nothing"], 1, "No idea what 'nothing' is!"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_begun(words: list[str], status: int, said: str) -> None:
    argv = [sys.executable, "-m", "invoke", *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[0]) == (status, said), done.stderr
